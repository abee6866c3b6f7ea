#include "kernels/cpu/onednn.h"

#include "kernels/cpu_sets.h"

void FN(onednn_check)(dnnl_status_t status, const char *what) {
    if (status == dnnl_out_of_memory)
        die("oneDNN: no memory for %s: try a smaller --batch-size", what);
    if (status != dnnl_success) die("oneDNN: %s failed (status %d)", what, (int)status);
}

/* oneDNN chooses by the CPU: a set that CLIPC_CPU names must hold for it too. */
static void hold_to_set(void) {
    static const dnnl_cpu_isa_t isa[CPU_SETS] = {
#if defined __aarch64__
        [CPU_NEON] = dnnl_cpu_isa_all,
#else
        [CPU_V3] = dnnl_cpu_isa_avx2,
        [CPU_V4] = dnnl_cpu_isa_avx512_core,
        [CPU_V4BF16] = dnnl_cpu_isa_avx512_core_bf16,
        [CPU_AMX] = dnnl_cpu_isa_avx512_core_amx,
#endif
    };
    dnnl_cpu_isa_t most = isa[cpu_set()];
    if (cpu_set() == cpu_set_best()) return;
    dnnl_set_max_cpu_isa(most); /* once in a process */
    if (dnnl_get_effective_cpu_isa() & ~(unsigned)most)
        die("CLIPC_CPU=%s: oneDNN does not keep to it", cpu_set_names[cpu_set()]);
}

static dnnl_engine_t engine;
static dnnl_stream_t stream;

dnnl_engine_t FN(onednn_engine)(void) {
    if (engine) return engine;
    hold_to_set();
    die_of_exceptions("oneDNN");
    FN(onednn_check)(dnnl_engine_create(&engine, dnnl_cpu, 0), "the CPU engine");
    FN(onednn_check)
    (dnnl_stream_create(&stream, engine, dnnl_stream_default_flags), "a stream");
    return engine;
}

#if defined ACT_BF16
static bool bf16_works(void) {
    static bool said;
    if (cpu_set_bf16(cpu_set())) return true;
    if (!said) log_warn("this CPU has no bf16 instructions: amp_bf16's products are of f32");
    said = true;
    return false;
}
#endif

Element FN(onednn_computed)(Element e) {
#if defined ACT_BF16
    if (e == ELEMENT_ACT && !bf16_works()) return ELEMENT_F32;
#endif
    return e;
}

dnnl_data_type_t FN(onednn_type)(Element e) {
#if defined ACT_BF16
    if (FN(onednn_computed)(e) == ELEMENT_ACT) return dnnl_bf16;
#endif
    (void)e;
    return dnnl_f32;
}

void FN(onednn_execute)(dnnl_primitive_t p, const Operand *all, int count, const char *what) {
    dnnl_exec_arg_t args[5] = {{0}};
    assert(count <= (int)COUNT(args));
    for (int i = 0; i < count; i++) {
        args[i].arg = all[i].arg;
        FN(onednn_check)
        (dnnl_memory_create(&args[i].memory, all[i].desc, engine, (void *)(uintptr_t)all[i].at),
         "a memory object");
    }
    FN(onednn_check)(dnnl_primitive_execute(p, stream, count, args), what);
    for (int i = 0; i < count; i++) dnnl_memory_destroy(args[i].memory);
}
