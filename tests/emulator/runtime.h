// The functions that a kernel translated from PTX calls: memory, barriers, shuffles, arithmetic.
//
// A thread of the grid is a fiber with a stack of its own. It runs until it waits for others
// (barrier, shuffle, end); runtime.c then chooses who runs next. Registers hold bits, as unsigned
// integers of their width; F() and D() give their value as float and double.
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u1, u8;  // u1: a predicate
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;

#define WARP 32
#define SHARED_BASE 1024u  // the address of the first byte of shared memory
#define PENDING 128        // asynchronous copies that a thread may have in flight

typedef struct { u64 from; u32 to; } Copy;

typedef struct Thread {
    void *stack_pointer;
    struct Block *block;
    u32 tid;                    // %tid.x
    u32 state;                  // see runtime.c
    u32 site;                   // the line of the PTX at which it waits
    u32 value, lane, received;  // of a shuffle: the value given, the lane to read, the result
    u32 warp_syncs, block_syncs;   // barriers passed: of the warp, of the block
    u32 arrivals, waits;           // the two halves of the cluster's barrier
    u32 releases, acquired;        // the same without relaxed arrivals, which publish no stores
    u32 remote;                    // has read another block's memory since it last arrived
    u32 pending;
    u8 *stack_low, *stack_high;
    Copy copies[PENDING];
} Thread;

typedef struct Block {
    u32 ctaid, ntid, nctaid, rank;  // %ctaid.x, %ntid.x, %nctaid.x, %cluster_ctarank
    struct Memory *shared;
    Thread *threads;
} Block;

// ---------------------------------------------------------------- memory and threads (runtime.c)

void *global_access(Thread *, u64 address, u32 bytes, int writes);
void *shared_access(Thread *, u32 address, u32 bytes, int writes);   // of the thread's own block
void *cluster_access(Thread *, u32 address, u32 bytes, int writes);  // of any block of the cluster
void *local_access(Thread *, u64 address, u32 bytes, int writes);
void *generic_access(Thread *, u64 address, u32 bytes, int writes);
u32 shuffle(Thread *, u32 value, u32 lane, u32 clamp, u32 mask, u32 line);  // the value of that lane
void barrier(Thread *, u32 line);
void warp_barrier(Thread *, u32 line);
void cluster_arrive(Thread *, u32 line, int relaxed);
void cluster_wait(Thread *, u32 line);
u32 map_shared_rank(Thread *, u32 address, u32 rank);
void copy_async(Thread *, u32 to, u64 from);  // 16 bytes, complete after copies_wait
void copies_wait(Thread *);
void trap(Thread *, u32 line);

// ---------------------------------------------------------------- bits and numbers

static inline float F(u32 x) { float f; memcpy(&f, &x, 4); return f; }
static inline double D(u64 x) { double f; memcpy(&f, &x, 8); return f; }
static inline u32 bits32(float x) { u32 b; memcpy(&b, &x, 4); return b; }
static inline u64 bits64(double x) { u64 b; memcpy(&b, &x, 8); return b; }
static inline float half_value(u16 h) { _Float16 x; memcpy(&x, &h, 2); return (float)x; }
static inline u16 half_bits(double x) {  // one rounding, from float and from double
    _Float16 h = (_Float16)x; u16 b; memcpy(&b, &h, 2); return x != x ? 0x7fff : b;
}
static inline float bfloat_value(u16 b) { return F((u32)b << 16); }
static inline u16 bfloat_bits(float x) {
    u32 u = bits32(x);
    return x != x ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
// a * b + c of 16-bit floats as a float rounded to odd (its last bit is 1 if it is not exact), so
// that rounding it to 16 bits gives the same as a single rounding.
static inline float fma_to_odd(float a, float b, float c) {
    double p = (double)a * b, s = p + c, z = s - p, lost = (p - (s - z)) + (c - z);
    float f = (float)s;
    double rest = s != f ? s - f : lost;
    u32 u = bits32(f);
    if (!(rest != 0) || rest != rest || f == 0 || u & 1) return f;
    return F((rest > 0) == (f > 0) ? u + 1 : u - 1);
}
static inline float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }
static inline float saturated(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }

// NaN only where both are NaN; -0 is less than +0.
#define EXTREMES(T, suffix) \
    static inline T least##suffix(T a, T b) { \
        return a != a ? b : b != b ? a : a == b ? (signbit(a) ? a : b) : a < b ? a : b; } \
    static inline T greatest##suffix(T a, T b) { \
        return a != a ? b : b != b ? a : a == b ? (signbit(a) ? b : a) : a > b ? a : b; }
EXTREMES(float, 32)
EXTREMES(double, 64)

// A number out of range becomes the nearest integer of the type, NaN becomes 0.
#define SATURATING(name, I, lowest, limit) \
    static inline I name(double x) { \
        return x != x ? 0 : x <= (lowest) ? (I)(lowest) : x >= (limit) ? \
            (I)((lowest) < 0 ? ~(1ull << (8 * sizeof(I) - 1)) : ~0ull) : (I)x; }
SATURATING(to_s8, s8, -0x1p7, 0x1p7)
SATURATING(to_s16, s16, -0x1p15, 0x1p15)
SATURATING(to_s32, s32, -0x1p31, 0x1p31)
SATURATING(to_s64, s64, -0x1p63, 0x1p63)
SATURATING(to_u8, u8, 0.0, 0x1p8)
SATURATING(to_u16, u16, 0.0, 0x1p16)
SATURATING(to_u32, u32, 0.0, 0x1p32)
SATURATING(to_u64, u64, 0.0, 0x1p64)

// Division by zero does not trap; the result is all ones, the remainder the dividend.
static inline s64 quotient_s(s64 a, s64 b) { return b == 0 ? -1 : b == -1 ? (s64)(0 - (u64)a) : a / b; }
static inline s64 remainder_s(s64 a, s64 b) { return b == 0 ? a : b == -1 ? 0 : a % b; }
static inline u64 quotient_u(u64 a, u64 b) { return b ? a / b : ~0ull; }
static inline u64 remainder_u(u64 a, u64 b) { return b ? a % b : a; }

static inline u64 bits_inserted(u64 into, u64 x, u32 at, u32 count) {
    at &= 255, count &= 255;
    u64 mask = at > 63 ? 0 : (count > 63 ? ~0ull : (1ull << count) - 1) << at;
    return (into & ~mask) | (at > 63 ? 0 : (x << at) & mask);
}
static inline u64 bits_extracted(u64 x, u32 at, u32 count, u32 width, int is_signed) {
    at &= 255, count &= 255;
    if (!count) return 0;
    u64 sign = is_signed ? x >> (at + count - 1 > width - 1 ? width - 1 : at + count - 1) & 1 : 0;
    u64 found = 0;
    for (u32 k = 0; k < width; k++)
        found |= (k < count && at + k < width ? x >> (at + k) & 1 : sign) << k;
    return found;
}
static inline u32 bytes_permuted(u32 a, u32 b, u32 selector) {
    u64 both = (u64)b << 32 | a;
    u32 found = 0;
    for (int k = 0; k < 4; k++) {
        u32 s = selector >> 4 * k & 15, byte = both >> 8 * (s & 7) & 255;
        found |= (s & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * k;
    }
    return found;
}
static inline u32 logic3(u32 a, u32 b, u32 c, u32 table) {
    u32 found = 0;
    for (int k = 0; k < 8; k++)
        if (table >> k & 1)
            found |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
    return found;
}

// ---------------------------------------------------------------- approximate units
//
// Exact to the last bit while unit_seed is 0. Otherwise the error of each result is -1, -1/2, 0,
// 1/2 or 1 times the bound that NVIDIA documents, chosen by a hash of the seed and the operands:
// the same operands give the same result, as on a device.

extern u64 unit_seed;

static inline double unit_error(u32 a, u32 b) {
    u32 mixed = 2654435761u * (u32)(unit_seed + 1);
    mixed = (a ^ mixed) * 2246822519u, mixed ^= mixed >> 15;
    mixed = (b ^ mixed) * 2246822519u, mixed ^= mixed >> 15;
    return unit_seed ? (int)(mixed % 5) / 2.0 - 1 : 0;
}
static inline double relative(double exact, double bound, u32 a, u32 b) {
    return exact == 0 || !isfinite(exact) ? exact : exact * (1 + bound * unit_error(a, b));
}
static inline double ulp(double x) { return ldexp(1, (x ? ilogb(x) : -126) - 23); }
static inline float exp2_approx(float x) {  // relative error of at most 2**-22, exactly 1 at 0
    return fabsf(x) < 0x1p-126f ? 1 : (float)relative(exp2((double)x), 0x1p-22, bits32(x), 0);
}
static inline float log2_approx(float x) {  // absolute error of 2**-22 in (0.5, 2), else relative
    double exact = log2((double)x);
    if (x > 0.5f && x < 2) return (float)(exact + (x == 1 ? 0 : 0x1p-22 * unit_error(bits32(x), 0)));
    return (float)relative(exact, 0x1p-22, bits32(x), 0);
}
static inline float reciprocal_approx(float x) {  // one unit in the last place
    double exact = 1 / (double)x;
    if (exact == 0 || !isfinite(exact)) return (float)exact;
    return (float)(exact + ulp(exact) * unit_error(bits32(x), 0));
}
// Operand and result have their upper 32 bits only; subnormal numbers count as 0.
static inline double reciprocal_gross(double x) {
    double y = 1 / D(bits64(x) & 0xffffffff00000000ull);
    if (fabs(x) < 0x1p-1022) y = copysign(INFINITY, x);
    return fabs(y) < 0x1p-1022 ? copysign(0, y) : D(bits64(y) & 0xffffffff00000000ull);
}
static inline float divide_full(float x, float y) {  // two units in the last place
    double exact = (double)x / y;
    if (exact == 0 || !isfinite(exact)) return (float)exact;
    return (float)(exact + 2 * ulp(exact) * unit_error(bits32(x), bits32(y)));
}
static inline float divide_approx(float x, float y) {  // the same, but 0 for divisors above 2**126
    if (fabsf(y) > 0x1p126f && fabsf(y) < INFINITY)
        return isinf(x) ? NAN : copysignf(0, x) * copysignf(1, y);
    return divide_full(x, y);
}
static inline float sqrt_approx(float x) { return (float)relative(sqrt((double)x), 0x1p-23, bits32(x), 0); }
static inline float rsqrt_approx(float x) {
    return (float)relative(1 / sqrt((double)x), 1.27765e-7, bits32(x), 0);
}
static inline float tanh_approx(float x) { return (float)relative(tanh((double)x), 0x1p-11, bits32(x), 0); }
