# clip.c. `make help` lists the targets; everything that is built lands under build/, one folder a flavour.
MAKEFLAGS += --no-builtin-rules
Q := $(if $V,,@)
CC      ?= gcc
ifeq ($(origin CC),default)
CC      := gcc
endif
FLAVOUR ?= release
PREFIX  ?= /usr/local
SECONDS ?= 60

ARCH_release := $(if $(PORTABLE),-march=x86-64-v3,-march=native)
OPT_release  := -O3
OPT_asan     := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
OPT_tsan     := -O1 -fsanitize=thread
OPT_fuzz     := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
OPENMP       := -fopenmp
ifeq ($(FLAVOUR),fuzz)
CC := clang
OPENMP :=
endif

B       := $(if $(filter release,$(FLAVOUR)),build,build/$(FLAVOUR))
CFLAGS  := -std=gnu11 -D_GNU_SOURCE -g $(OPT_$(FLAVOUR)) $(ARCH_release) $(OPENMP) -ffp-contract=fast -fno-math-errno \
           -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wno-unknown-pragmas -I. -MMD -MP
# MPI, where it is there (MPI=0: without): train/comm_mpi.c alone knows
ifneq ($(MPI),0)
MPI_CFLAGS := $(patsubst -I%,-isystem %,$(filter -I%,$(shell pkg-config --cflags ompi-c 2>/dev/null || mpicc --showme:compile 2>/dev/null)))
MPI_LIBS   := $(shell pkg-config --libs ompi-c 2>/dev/null || mpicc --showme:link 2>/dev/null)
endif
LDLIBS  := -Wl,--as-needed $(MPI_LIBS) -ldnnl -ljpeg -lpng16 -lwebp -lzstd -lz -ljansson -lutf8proc -lm -lpthread

# ---- objects: kernels/cpu is compiled twice, once for each type of activations ----
CPU_SRC := $(wildcard kernels/cpu/*.c)
LIB_SRC := $(wildcard kernels/*.c kernels/ref/*.c data/*.c train/*.c eval/*.c)
ifeq ($(FLAVOUR),fuzz)
# only what parses: it needs neither OpenMP nor oneDNN
CPU_SRC :=
LIB_SRC := kernels/base.c kernels/rng.c $(wildcard data/*.c train/config.c train/options.c)
endif
LIB_OBJ := $(LIB_SRC:%.c=$B/obj/%.o) $(CPU_SRC:%.c=$B/obj/%.f32.o) $(CPU_SRC:%.c=$B/obj/%.bf16.o)
EXE_OBJ := $(patsubst %.c,$B/obj/%.o,$(wildcard tools/*.c))
TESTS   := $(patsubst tests/%.c,$B/tests/%,$(wildcard tests/test_*.c))
TEST_SUPPORT := $(patsubst %.c,$B/obj/%.o,$(wildcard tests/support*.c))
FUZZERS := $(patsubst tests/fuzz/%.c,build/fuzz/bin/%,$(wildcard tests/fuzz/fuzz_*.c))

# ---- CUDA on the CPU, where nvcc is: libcudaemu.a takes the place of CUDA's libraries in tests ----
NVCC      ?= $(shell command -v nvcc 2>/dev/null)
CUDA_HOME ?= $(if $(NVCC),$(abspath $(dir $(NVCC))..))
EMU_HEADERS := $(if $(filter release,$(FLAVOUR)),$(wildcard $(CUDA_HOME)/include/cublasLt.h))
ifneq ($(EMU_HEADERS),)
EMU_SKIP  := $(if $(wildcard $(CUDA_HOME)/include/nccl.h),,%/nccl.c %/ranks.cu)
EMU_OBJ   := $(patsubst %.c,$B/obj/%.o,$(filter-out $(EMU_SKIP),$(wildcard tests/cuda_on_cpu/*.c)))
EMU_TESTS := $(patsubst tests/cuda_on_cpu/selftest/%.cu,$B/tests/cudaemu_%,$(filter-out $(EMU_SKIP),$(wildcard tests/cuda_on_cpu/selftest/*.cu)))
endif
EMU_NVFLAGS := -std=c++17 -O3 -lineinfo -I. -gencode arch=compute_80,code=compute_80 -Werror all-warnings \
               -Xcompiler -fno-exceptions,-fno-threadsafe-statics,-Wall,-Wextra

.PHONY: all build help setup demo test asan tsan fuzz bench lint install clean format
all: build
build: $B/clipc

help:
	@echo 'make          build/clipc                make test     all tests (no GPU, no download but packages)'
	@echo 'make demo     train a CLIP in minutes     make asan     the tests under ASan and UBSan'
	@echo 'make setup    install what is missing     make tsan     the loader tests under ThreadSanitizer'
	@echo 'make bench    measure this machine        make fuzz     fuzz every parser, SECONDS=60 each'
	@echo 'make lint     format, layers, warnings    make install  PREFIX=/usr/local (DESTDIR honoured)'
	@echo 'PORTABLE=1 builds for any x86-64-v3 CPU; V=1 shows commands; make clean removes build/.'

setup:
	@tools/setup.sh build test
demo:
	@tools/setup.sh build demo
	@$(MAKE) --no-print-directory build
	@tools/demo/run.sh

$B/deps.ok: tools/check_deps.sh
	@mkdir -p $(@D)
	@tools/check_deps.sh $(CC)
	@touch $@
$B/obj/%.o: %.c Makefile | $B/deps.ok
	@mkdir -p $(@D)
	@echo '  CC    $<'
	$Q$(CC) $(CFLAGS) -c $< -o $@
$B/obj/kernels/cpu/%.f32.o: kernels/cpu/%.c Makefile | $B/deps.ok
	@mkdir -p $(@D)
	@echo '  CC    $< (f32)'
	$Q$(CC) $(CFLAGS) -DACT_F32 -c $< -o $@
$B/obj/kernels/cpu/%.bf16.o: kernels/cpu/%.c Makefile | $B/deps.ok
	@mkdir -p $(@D)
	@echo '  CC    $< (bf16)'
	$Q$(CC) $(CFLAGS) -DACT_BF16 -c $< -o $@
$B/obj/train/comm_mpi.o: CFLAGS += $(if $(MPI_LIBS),-DHAVE_MPI $(MPI_CFLAGS))
$B/obj/train/comm_mpi.o: $B/mpi.flags
.PHONY: FORCE
$B/mpi.flags: FORCE
	@mkdir -p $(@D)
	@echo '$(MPI_CFLAGS) $(MPI_LIBS)' | cmp -s - $@ || echo '$(MPI_CFLAGS) $(MPI_LIBS)' >$@
$B/obj/tests/cuda_on_cpu/%.o: tests/cuda_on_cpu/%.c Makefile
	@mkdir -p $(@D)
	@echo '  CC    $<'
	$Q$(CC) $(CFLAGS) -fno-strict-aliasing -isystem $(CUDA_HOME)/include -c $< -o $@
$B/libcudaemu.a: $(EMU_OBJ)
	@echo '  AR    $@'
	@rm -f $@
	$Qar rcs $@ $^
$B/obj/tests/cuda_on_cpu/selftest/%.o: tests/cuda_on_cpu/selftest/%.cu tests/cuda_on_cpu/selftest/selftest.h Makefile
	@mkdir -p $(@D)
	@echo '  NVCC  $<'
	$Q$(NVCC) $(EMU_NVFLAGS) -c $< -o $@
.PRECIOUS: $B/obj/tests/cuda_on_cpu/selftest/%.o
$B/tests/cudaemu_%: $B/obj/tests/cuda_on_cpu/selftest/%.o $B/libcudaemu.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$Q$(CC) $^ -o $@ -lzstd -lm -lpthread
$B/libclipc.a: $(LIB_OBJ)
	@echo '  AR    $@'
	@rm -f $@
	$Qar rcs $@ $^
$B/clipc: $(EXE_OBJ) $B/libclipc.a
	@echo '  LINK  $@'
	$Q$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)
$B/tests/%: $B/obj/tests/%.o $(TEST_SUPPORT) $B/libclipc.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$Q$(CC) $(CFLAGS) $^ -o $@ -lcmocka $(LDLIBS)

.PHONY: tests
tests: $(TESTS) $(EMU_TESTS) $B/clipc
test:
	@tools/setup.sh build test
	@$(MAKE) --no-print-directory tests
	@tests/run.sh $B
asan:
	@tools/setup.sh build test
	@$(MAKE) --no-print-directory FLAVOUR=asan tests
	@tests/run.sh build/asan
tsan:
	@tools/setup.sh build test
	@$(MAKE) --no-print-directory FLAVOUR=tsan build/tsan/tests/test_loader
	@tests/run.sh build/tsan test_loader

build/fuzz/bin/%: tests/fuzz/%.c $B/libclipc.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -fsanitize=fuzzer $^ -o $@ $(filter-out -ldnnl,$(LDLIBS))
.PHONY: fuzzers
fuzzers: $(FUZZERS)
fuzz:
	@tools/setup.sh build fuzz
	@$(MAKE) --no-print-directory FLAVOUR=fuzz fuzzers
	@tests/fuzz/run.sh build/fuzz/bin $(SECONDS)

bench: build
	@$B/clipc bench step --model ViT-B-32 --batch-size 32 --precision amp_bf16 --caption-tokens 16

lint:
	@tools/lint.sh
format:
	@clang-format -i $$(git ls-files '*.c' '*.h')

install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/clipc
	install -m 755 $B/clipc $(DESTDIR)$(PREFIX)/bin/clipc
	cp -r configs $(DESTDIR)$(PREFIX)/share/clipc/
	if [ -d build/vocab ]; then cp -r build/vocab $(DESTDIR)$(PREFIX)/share/clipc/; fi

clean:
	rm -rf build

-include $(shell find $B/obj -name '*.d' 2>/dev/null)
