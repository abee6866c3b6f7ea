/* ptx: the types of the PTX interpreter: parsed text, decoded instructions, warps and blocks.
 *
 * text -> ptx_parse.c -> statements -> ptx_decode.c (+ ptx_regs.c) -> instructions -> block.c The
 * instructions are implemented in ptx_int.c, ptx_float.c, ptx_cvt.c, ptx_mem.c, ptx_copy.c,
 * ptx_atom.c and ptx_warp.c. An instruction is one function over the lanes of a warp. A register is
 * an array of 32 lanes; a predicate is one word with a bit a lane. Registers share storage if their
 * lives do not overlap (ptx_regs.c), which keeps a warp's frame in the first-level cache. */
#pragma once
#include "tests/cuda_on_cpu/emu.h"

enum { LANES = 32, ALL_LANES = -1, MAX_THREADS = 1024, MAX_BARRIERS = 16 };
/* Starts of the generic addresses of the shared and the local space; shared variables start at 1 KB
 * as on real devices, so that a null pointer into shared memory is a fault. */
#define SHARED_WINDOW 0x7E0000000000u
#define LOCAL_WINDOW 0x7D0000000000u
#define WINDOW_SIZE 0x1000000u
enum { SHARED_START = 1024, SHARED_GAP = 64 };

typedef enum Space { GENERIC, GLOBAL, SHARED, LOCAL, PARAM, CONSTANT } Space;

/* ---- parsed text ---- */
typedef struct Variable {
    char *name;
    Space space;
    size_t size, align;
    uint64_t address; /* GLOBAL, CONSTANT: device address; LOCAL, PARAM: offset */
    unsigned char *init;
    bool external; /* .extern .shared: dynamic shared memory */
} Variable;

typedef enum OperandKind {
    OPERAND_REG,
    OPERAND_IMM,
    OPERAND_MEM,
    OPERAND_NAME,
    OPERAND_LIST
} OperandKind;
typedef struct Operand {
    OperandKind kind;
    bool negated;         /* !%p */
    int reg;              /* OPERAND_REG; OPERAND_MEM: base register or -1 */
    int also;             /* the q of p|q, or -1 */
    int float_bits;       /* 0f… 32, 0d… 64, else 0 */
    uint64_t value;       /* OPERAND_IMM; OPERAND_MEM, OPERAND_NAME: offset */
    char *name;           /* OPERAND_NAME: label, function or special register */
    Variable *variable;   /* OPERAND_NAME, OPERAND_MEM: resolved */
    struct Operand *list; /* OPERAND_LIST */
    int count;
} Operand;

typedef struct Stmt {
    char *op;    /* NULL for a bare label */
    char *label; /* label in front, or NULL */
    const char *text;
    int guard;
    bool guard_not;
    Operand *args;
    int count, loc;
} Stmt;

typedef struct Loc {
    int file, line, outer_file, outer_line; /* outer: the place it was inlined into, 0 if none */
} Loc;

typedef struct Ins Ins;
typedef struct Kernel {
    char *name;
    struct Module *module;
    Variable *params; /* in order; address = offset in the argument block */
    int param_count;
    size_t param_bytes, local_bytes;
    unsigned max_threads; /* .maxntid or .reqntid, 0: none */
    uint8_t *reg_width;   /* by register: 1 predicate, 2, 4, 8 bytes a lane */
    int reg_count;
    Stmt *stmts;
    int stmt_count;
    bool is_function;
    int dynamic_limit; /* of dynamic shared memory, see cudaFuncSetAttribute */
    /* decoded, on the first launch */
    Ins *code;
    uint32_t code_count, frame_bytes;
    struct Preset *presets;
    int preset_count;
    Buffer *shared; /* static variables, then dynamic memory as the last */
    int shared_count;
    size_t shared_bytes;     /* end of the static part */
    struct Profile *profile; /* profile.c, NULL: nothing is counted */
} Kernel;

typedef struct Module {
    Kernel **kernels;
    int kernel_count;
    Variable **variables;
    int variable_count;
    Loc *locs;
    int loc_count;
    char **files;
    int file_count;
    int target;
} Module;

/* Stops with the line of the text on anything unknown. The text must outlive the result. */
Module *ptx_parse(const char *text);
Kernel *ptx_kernel(Module *m, const char *name);
/* Decodes on first use. */
void ptx_decode(Kernel *k);

/* ---- decoded instructions ---- */
typedef struct Warp Warp;
typedef void (*Exec)(Warp *w, Ins *i);
typedef enum Kind {
    K_PLAIN,
    K_LABEL,  /* a branch target: lanes that wait there may join */
    K_BRANCH, /* to target */
    K_SWITCH, /* to more[value of operand 0] */
    K_EXIT,
    K_WARP,    /* all lanes of its mask meet, then run() */
    K_BARRIER, /* the block meets */
} Kind;

struct Ins {
    Exec run;
    uint32_t *o;        /* frame offsets of the operands, destinations first */
    const Buffer *hot;  /* the buffer that the last access met */
    int64_t offset;     /* of an address */
    uint32_t *more;     /* K_SWITCH: targets */
    uint32_t guard;     /* frame offset of a predicate, 0: none */
    uint32_t guard_xor; /* all ones for @!%p */
    uint32_t target;
    uint32_t stmt; /* for reports */
    uint8_t kind, count, dsts;
    uint8_t size, vec, wide; /* memory: bytes an element, elements, bytes of a register */
    uint8_t space;
    uint8_t mode; /* comparison, rounding, shuffle kind … as the instruction likes */
    uint8_t mode2, sign;
    uint8_t mask_operand; /* K_WARP: operand that holds the member mask; 0xFF: all 32 lanes */
};

/* An entry of the instruction tables: widths (1, 2, 4, 8) of the operands, destination first. */
typedef struct Op {
    const char *names; /* separated by spaces */
    Exec run;
    uint8_t count, width[6];
} Op;
extern const Op ptx_int_ops[], ptx_float_ops[], ptx_cvt_ops[];

/* Initial contents of a warp's frame: constants and special registers. */
typedef enum Special {
    SPECIAL_NONE,
    TID_X,
    TID_Y,
    TID_Z,
    NTID_X,
    NTID_Y,
    NTID_Z,
    CTAID_X,
    CTAID_Y,
    CTAID_Z,
    NCTAID_X,
    NCTAID_Y,
    NCTAID_Z,
    LANE_ID,
    WARP_ID,
    NWARP_ID,
    SM_ID,
    NSM_ID,
    GRID_ID,
    LANEMASK_EQ,
    LANEMASK_LT,
    LANEMASK_LE,
    LANEMASK_GT,
    LANEMASK_GE,
    DYNAMIC_SMEM,
    TOTAL_SMEM,
} Special;
typedef struct Preset {
    uint32_t at;
    uint8_t width, special;
    uint64_t value;
} Preset;

/* ---- a running block ---- */
typedef struct Copy { /* a cp.async in flight */
    uint64_t from;    /* global address */
    uint32_t to, size, source_size, group;
    uint8_t lane;
    Ins *ins;
} Copy;

struct Warp {
    unsigned char *regs;
    uint32_t mask; /* active lanes of the running instruction */
    struct Block *block;
    uint32_t index;
    uint32_t exists, running, exited, in_warp_op, in_barrier;
    uint32_t pc[LANES], members[LANES]; /* of inactive lanes; masks with which they wait */
    uint8_t barrier_id[LANES];
    uint32_t barrier_count[LANES];
    unsigned char *local;
    uint32_t carry;              /* bit a lane */
    uint32_t sync[LANES], syncs; /* number of the last warp synchronisation, by lane; in all */
    uint32_t copy_groups[LANES];
    Copy *copies;
    uint32_t copy_count, copy_capacity;
};

typedef struct Dim {
    uint32_t x, y, z;
} Dim;
typedef struct Block {
    const Kernel *kernel;
    Dim grid, dim, id;
    uint64_t linear;                     /* number of the block in the grid */
    uint32_t threads, warp_count, epoch; /* epoch: barriers passed */
    unsigned char *shared;               /* byte 0 is address SHARED_START */
    size_t shared_bytes, dynamic_bytes;
    const unsigned char *params;
    Warp *warps;
    uint64_t steps;
} Block;

/* Runs a whole grid (block.c). */
void block_launch(Kernel *k, Dim grid, Dim dim, size_t dynamic_bytes, const unsigned char *params);
/* " at FILE:LINE", and the place it was inlined into. */
void ptx_where(const Kernel *k, const Stmt *s, char *out, size_t size);
/* Stops with kernel, block, thread and source line of a lane. */
void ptx_fault(const Warp *w, const Ins *i, int lane, const char *fmt, ...)
    __attribute__((format(printf, 4, 5), noreturn));

/* ---- race detector (race.c), on with CUDAEMU_RACE=1 ---- */
extern bool race_on;
void race_launch(const Block *b);
void race_access(Warp *w, const Ins *i, int lane, Space space, uint64_t address, uint32_t bytes,
                 bool write, bool atomic);
void race_fence(const Warp *w);

/* ---- helpers of the instruction files ---- */
#define EACH(w, ...)                                                                               \
    do {                                                                                           \
        uint32_t mask_ = (w)->mask;                                                                \
        if (mask_ == (uint32_t)ALL_LANES) {                                                        \
            _Pragma("GCC ivdep") for (int l = 0; l < LANES; l++) { __VA_ARGS__; }                  \
        } else                                                                                     \
            for (; mask_; mask_ &= mask_ - 1) {                                                    \
                int l = __builtin_ctz(mask_);                                                      \
                __VA_ARGS__;                                                                       \
            }                                                                                      \
    } while (0)
#define REG(T, w, i, k) ((T *)(void *)((w)->regs + (i)->o[k]))
#define PRED(w, i, k) (*REG(uint32_t, w, i, k))

static inline float bf16_float(uint16_t v) {
    union {
        uint32_t u;
        float f;
    } x = {.u = (uint32_t)v << 16};
    return x.f;
}
static inline uint16_t float_bf16(float f) {
    union {
        float f;
        uint32_t u;
    } x = {.f = f};
    if (f != f) return 0x7FFF;
    return (uint16_t)((x.u + 0x7FFF + (x.u >> 16 & 1)) >> 16);
}

/* 8 bits: e4m3 (no infinities, 448 the largest) and e5m2 (57,344), Micikevicius et al. 2022. */
float fp8_float(uint8_t v, bool e5m2);
uint8_t float_fp8(float f, bool e5m2); /* to nearest even; saturates at the largest */

/* ---- decoding of instructions that are not in a table ---- */
typedef struct Decoder Decoder;
/* Splits "ld.global.v4.f32" at its dots into words; returns the number of words. */
typedef struct Words {
    char text[160];
    char *word[24];
    int count;
} Words;
bool words_take(Words *w, const char *word); /* removes a word if it is there */
/* Decode the statement if it is of their kind. */
bool decode_mem(Decoder *d, const Stmt *s, Words *w);
bool decode_copy(Decoder *d, const Stmt *s, Words *w);
bool decode_atom(Decoder *d, const Stmt *s, Words *w);
bool decode_warp(Decoder *d, const Stmt *s, Words *w);
bool decode_cvt(Decoder *d, const Stmt *s, Words *w);

void decode_stop(const Decoder *d, const Stmt *s, const char *why) __attribute__((noreturn));
/* Starts an instruction, guarded as the statement. Operands are added in order, destinations first.
 */
Ins *decode_ins(Decoder *d, const Stmt *s, Exec run);
void decode_dst(Decoder *d, const Stmt *s, const Operand *o, int width);
void decode_src(Decoder *d, const Stmt *s, const Operand *o, int width);
/* An address [reg+offset] or [variable+offset]: one 64-bit or 32-bit source; sets wide, offset. */
void decode_address(Decoder *d, const Stmt *s, const Operand *o, Space space);
/* Width of the register operand (or of the first of a list), 0 for an immediate. */
int decode_width(const Decoder *d, const Operand *o);
/* A fresh register of this width, as an operand. */
Operand decode_temp(Decoder *d, int width);
