/* Do two instruction sets' kernels give the same bits?   compare LEFT RIGHT < cases   (or, as /init, from /cases)

   One line of standard output per case:
       case <name> <type> <parameters> values=<compared> differ=<values> nan=<values> hash=<of LEFT's bits>
   Values differ if their bits do; NaNs count as one value, and those with other bits are told apart under "nan".
   The hash lets the caller compare with the same run elsewhere, e.g. on a real CPU.  Ends with "cases <number>".

   As the first process of an emulated machine it compares AVX2 with AVX-512 and switches the machine off. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <termios.h>
#include <unistd.h>

typedef ssize_t Kernel(const void *y, const void *raw, void *loss, void *grad, void *hess, ssize_t n,
                       const double *params, void *data);
enum { ISAS = 3, TYPES = 2, GUARD = 24, OUTPUTS = 3 };
static const char *const isa_names[ISAS] = {"baseline", "avx2", "avx512"};
static const char *const type_names[TYPES] = {"float32", "float64"};

/* Everything named ISA_TYPE_NAME, cut out of the build's own object files.  Pointers to either type pass alike. */
#define EACH(what) \
    what(baseline, f32, float) what(baseline, f64, double) what(avx2, f32, float) what(avx2, f64, double) \
    what(avx512, f32, float) what(avx512, f64, double)
#define DECLARE(isa, type, real)                                                         \
    double isa##_##type##_row_dot(const void *, const void *, ssize_t);                  \
    double isa##_##type##_row_total(const void *, ssize_t);                              \
    double isa##_##type##_row_weighted_total(const void *, const double *, ssize_t);     \
    int isa##_##type##_row_label_signs(const void *, ssize_t);                           \
    void isa##_##type##_row_axpy(real, const void *, void *, ssize_t);                   \
    void isa##_##type##_row_scale(real, void *, ssize_t);                                \
    void isa##_##type##_row_store(const void *, const double *, double, void *, ssize_t);
EACH(DECLARE)

/* All row functions: four numbers, four arrays (which start as copies of w). */
enum { SUMS = 4, ARRAYS = 4 };
typedef void Rows(const void *x, const void *w, const double *weights, double a, ssize_t n, double *sums, void **out);
#define CALL_ROWS(isa, type, real)                                                                              \
    static void isa##_##type##_rows(const void *x, const void *w, const double *weights, double a, ssize_t n,  \
                                    double *sums, void **out) {                                                 \
        sums[0] = isa##_##type##_row_dot(x, w, n);                                                              \
        sums[1] = isa##_##type##_row_total(x, n);                                                               \
        sums[2] = isa##_##type##_row_weighted_total(x, weights, n);                                             \
        sums[3] = isa##_##type##_row_label_signs(x, n);                                                         \
        isa##_##type##_row_axpy((real)a, x, out[0], n);                                                         \
        isa##_##type##_row_scale((real)a, out[1], n);                                                           \
        isa##_##type##_row_store(x, NULL, a, out[2], n);                                                        \
        isa##_##type##_row_store(x, weights, a, out[3], n);                                                     \
    }
EACH(CALL_ROWS)
static Rows *const rows[ISAS][TYPES] = {
    {baseline_f32_rows, baseline_f64_rows}, {avx2_f32_rows, avx2_f64_rows}, {avx512_f32_rows, avx512_f64_rows}};

/* kernels.inc says KERNEL(name) for each kernel. */
#define KERNEL(name)                                                             \
    Kernel baseline_f32_##name, baseline_f64_##name, avx2_f32_##name, avx2_f64_##name, \
        avx512_f32_##name, avx512_f64_##name;
#include "kernels.inc"
#undef KERNEL
#define KERNEL(name)                                                           \
    {#name, {{baseline_f32_##name, baseline_f64_##name}, {avx2_f32_##name, avx2_f64_##name}, \
             {avx512_f32_##name, avx512_f64_##name}}, 0},
static struct { const char *name; Kernel *call[ISAS][TYPES]; int used; } kernels[] = {
#include "kernels.inc"
};
enum { KERNELS = sizeof kernels / sizeof *kernels };

/* A case as cases.py writes it; y and raw (n numbers each) follow.  For the row functions they are x and w. */
typedef struct { char name[40], label[80]; int32_t type, n; double params[8]; } Case;

typedef struct { long values, differ, nan; uint64_t hash; int shown; } Tally;
static int left, right;

static int is_nan(uint64_t bits, int type) {
    return type ? (bits & INT64_MAX) > UINT64_C(0x7ff) << 52 : (bits & INT32_MAX) > UINT64_C(0xff) << 23;
}

/* One pair of results; `where` is printed with the first few that differ. */
static void compare(Tally *t, uint64_t a, uint64_t b, int type, const char *where, ssize_t n, ssize_t i) {
    int nans = is_nan(a, type) && is_nan(b, type);
    t->values++;
    t->hash = (t->hash ^ (is_nan(a, type) ? 1 : a)) * UINT64_C(0x100000001b3);
    t->hash ^= t->hash >> 29;
    t->nan += nans && a != b;
    if (nans || a == b) return;
    t->differ++;
    if (t->shown++ < 3) printf("# %s n=%zd i=%zd %016lx %016lx\n", where, n, i, (long)a, (long)b);
}

static void compare_arrays(Tally *t, const char *a, const char *b, int type, ssize_t length, const char *where, ssize_t n) {
    for (ssize_t i = 0; i < length; i++) {
        uint64_t p = 0, q = 0;
        memcpy(&p, a + (i << (2 + type)), 4 << type);
        memcpy(&q, b + (i << (2 + type)), 4 << type);
        compare(t, p, q, type, where, n, i);
    }
}

static void compare_doubles(Tally *t, double a, double b, const char *where, ssize_t n) {
    compare_arrays(t, (const char *)&a, (const char *)&b, 1, 1, where, n);
}

static char *filled(size_t bytes) { char *p = malloc(bytes); memset(p, 0x5a, bytes); return p; }

/* One call of both kernels, for the outputs whose bits are in `want`; all bytes of the outputs are compared, also those
   past the end. */
static void call(Tally *t, const char *name, Kernel *const (*f)[TYPES], const Case *c, const char *y, const char *raw,
                 ssize_t n, int want) {
    size_t bytes = (size_t)(n + GUARD) << (2 + c->type);
    char *out[2][OUTPUTS], where[80];
    ssize_t result[2];
    for (int side = 0; side < 2; side++) {
        for (int k = 0; k < OUTPUTS; k++) out[side][k] = want >> k & 1 ? filled(bytes) : NULL;
        result[side] = f[side ? right : left][c->type](y, raw, out[side][0], out[side][1], out[side][2], n, c->params, NULL);
    }
    snprintf(where, sizeof where, "%s returned, want=%d", name, want);
    compare(t, result[0], result[1], 1, where, n, 0);
    for (int k = 0; k < OUTPUTS; k++) {
        snprintf(where, sizeof where, "%s output %d, want=%d", name, k, want);
        if (out[0][k]) compare_arrays(t, out[0][k], out[1][k], c->type, n + GUARD, where, n);
        free(out[0][k]), free(out[1][k]);
    }
}

/* All outputs' combinations on all samples; then every length and misalignment around a vector's width. */
static void run_kernel(Tally *t, const char *name, Kernel *const (*f)[TYPES], const Case *c, const char *y,
                       const char *raw, int hessian_only) {
    int shift = 2 + c->type, all = hessian_only ? 4 : 7, least = hessian_only ? 4 : 1;
    for (int want = least; want <= all; want++) call(t, name, f, c, y, raw, c->n, want);
    for (ssize_t n = 0; n <= 70; n++) {
        ssize_t from = (n * 37) % (c->n - 70);
        call(t, name, f, c, y + (from << shift), raw + (from << shift), n, hessian_only ? 4 : 1 + n % 7);
    }
    if (hessian_only) return;
    static const double odd[] = {-3, -1e-3, 0, 0.5, 2.5, __builtin_nan("")};  /* targets outside one or other domain */
    size_t bytes = (size_t)c->n << shift;
    char *bad = malloc(bytes);
    for (int k = 0; k < 6; k++)
        for (int place = 0; place < 3; place++) {
            ssize_t i = place == 0 ? 0 : place == 1 ? c->n / 2 + 3 : c->n - 1;
            float narrow = odd[k];
            memcpy(bad, y, bytes);
            memcpy(bad + (i << shift), c->type ? (void *)&odd[k] : (void *)&narrow, 1 << shift);
            call(t, name, f, c, bad, raw, c->n < 300 ? c->n : place ? c->n : 300, 1 + (k + place) % 7);
        }
    free(bad);
}

static void run_loss(Tally *t, const Case *c, const char *y, const char *raw) {
    char wanted[64];
    for (int k = 0; k < KERNELS; k++)
        for (int fisher = 0; fisher < 2; fisher++) {
            snprintf(wanted, sizeof wanted, "%s%s_kernel", c->name, fisher ? "_fisher" : "");
            if (strcmp(wanted, kernels[k].name)) continue;
            kernels[k].used++;
            run_kernel(t, wanted, kernels[k].call, c, y, raw, fisher);
        }
}

static void run_rows(Tally *t, const Case *c, const char *x, const char *w) {
    static const char *const names[] = {"dot", "total", "weighted_total", "label_signs", "axpy", "scale", "store", "store w"};
    int shift = 2 + c->type;
    double *weights = malloc(c->n * sizeof *weights);
    for (ssize_t i = 0; i < c->n; i++) weights[i] = i % 5 == 3 ? 0 : 0.1 * (i % 23);
    for (ssize_t n = 0; n <= c->n; n += n < 140 || n == c->n ? 1 : c->n - n) {
        ssize_t from = (n * 37) % (c->n - n + 1);
        double sums[2][SUMS];
        void *out[2][ARRAYS];
        for (int side = 0; side < 2; side++) {
            for (int k = 0; k < ARRAYS; k++) {
                out[side][k] = filled((n + GUARD) << shift);
                memcpy(out[side][k], w + (from << shift), n << shift);
            }
            rows[side ? right : left][c->type](x + (from << shift), w + (from << shift), weights + from, c->params[0], n,
                                               sums[side], out[side]);
        }
        for (int k = 0; k < SUMS; k++) compare_doubles(t, sums[0][k], sums[1][k], names[k], n);
        for (int k = 0; k < ARRAYS; k++) {
            compare_arrays(t, out[0][k], out[1][k], c->type, n + GUARD, names[SUMS + k], n);
            free(out[0][k]), free(out[1][k]);
        }
    }
    free(weights);
}

static void run(FILE *cases) {
    Case c;
    int count = 0;
    while (fread(&c, sizeof c, 1, cases) == 1) {
        size_t bytes = (size_t)c.n << (2 + c.type);
        char *y = malloc(bytes), *raw = malloc(bytes);
        Tally t = {.hash = 1};
        if (fread(y, 1, bytes, cases) != bytes || fread(raw, 1, bytes, cases) != bytes) break;
        (strcmp(c.name, "rows") ? run_loss : run_rows)(&t, &c, y, raw);
        printf("case %s %s %s values=%ld differ=%ld nan=%ld hash=%016lx\n", c.name, type_names[c.type], c.label, t.values,
               t.differ, t.nan, (long)t.hash);
        free(y), free(raw);
        count++;
    }
    for (int k = 0; k < KERNELS; k++)
        if (!kernels[k].used) printf("case %s never-called values=0 differ=1 nan=0 hash=0\n", kernels[k].name);
    printf("cases %d\n", count);
}

static int isa(const char *name) {
    for (int k = 0; k < ISAS; k++)
        if (!strcmp(name, isa_names[k])) return k;
    exit(2);
}

/* The emulator ends when this word is written to its port. */
static void switch_off(void) {
    tcdrain(1);
    sleep(1);
    iopl(3);
    for (const char *word = "Shutdown"; *word; word++) outb(*word, 0x8900);
    for (;;) pause();
}

int main(int argc, char **argv) {
    int first_process = getpid() == 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    left = isa(argc > 2 ? argv[1] : "avx2");
    right = isa(argc > 2 ? argv[2] : "avx512");
    if (right == 2 && !(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512cd")))
        puts("# this CPU has no AVX-512");
    else
        run(first_process ? fopen("/cases", "rb") : stdin);
    if (first_process) switch_off();
    return 0;
}
