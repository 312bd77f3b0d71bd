/* The bodies of simd.h for one working type.  Every sum runs in an order that depends on its length alone, never on
   where a row stands in its tile: results do not depend on how rows were cut into tiles. */

/* value in every lane (x - 0 is x, also for -0, and compiles to the broadcast alone). */
static inline VEC V(all)(T value) { return value - (VEC){0}; }

static inline VEC V(get)(const T *p) {
    VEC v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void V(put)(T *p, VEC v) { memcpy(p, &v, sizeof v); }

/* Neighbouring lanes added: half of a's sums, then half of b's. */
static inline VEC V(pairs)(VEC a, VEC b) {
    return __builtin_shufflevector(a, b, GLUE(EVEN_, LANES)) + __builtin_shufflevector(a, b, GLUE(ODD_, LANES));
}

/* The lanes of each of n vectors added up, n = 2, 4 or 8; out[i] = sum of v[i]. */
static ALWAYS_INLINE void V(sums)(VEC *v, const int n, T *out) {
    int count = n;
#pragma GCC unroll 8
    for (int lanes = LANES; lanes > 1; lanes /= 2) {
        int half = count > 1 ? count / 2 : 1;
#pragma GCC unroll 8
        for (int i = 0; i < half; i++) v[i] = V(pairs)(v[2 * i % count], v[(2 * i + 1) % count]);
        count = half;
    }
#pragma GCC unroll 8
    for (int i = 0; i * LANES < n; i++) memcpy(out + i * LANES, &v[i], sizeof(T) * (n < LANES ? n : LANES));
}

/* z[r] = sum_j x[r, j] w[j] for rows of d numbers, ld apart. */
static void V(rows_times)(const T *x, Py_ssize_t ld, const T *w, T *z, Py_ssize_t rows, Py_ssize_t d) {
    const Py_ssize_t whole = d - d % LANES, rest = d % LANES;
    for (Py_ssize_t r = 0; r < rows; r += FASTLOSS_AT_ONCE) {
        const T *row[FASTLOSS_AT_ONCE];
        VEC sum[FASTLOSS_AT_ONCE];
        T group[FASTLOSS_AT_ONCE];
#pragma GCC unroll 8
        for (int i = 0; i < FASTLOSS_AT_ONCE; i++) {    /* past the end: the last row again */
            row[i] = x + (r + i < rows ? r + i : rows - 1) * ld;
            sum[i] = V(all)(0);
        }
        for (Py_ssize_t j = 0; j < whole; j += LANES) {
            const VEC v = V(get)(w + j);
#pragma GCC unroll 8
            for (int i = 0; i < FASTLOSS_AT_ONCE; i++) sum[i] = FMA(V(get)(row[i] + j), v, sum[i]);
        }
        if (rest) {
            const VEC v = PART(w + whole, rest);
#pragma GCC unroll 8
            for (int i = 0; i < FASTLOSS_AT_ONCE; i++) sum[i] = FMA(PART(row[i] + whole, rest), v, sum[i]);
        }
        V(sums)(sum, FASTLOSS_AT_ONCE, group);
        memcpy(z + r, group, sizeof(T) * (size_t)(rows - r < FASTLOSS_AT_ONCE ? rows - r : FASTLOSS_AT_ONCE));
    }
}

/* g[j] += sum_r a[r] x[r, j], for a stretch of columns that stays in registers while the rows go by. */
#define STRETCH(wide)                                                                                                  \
    for (; j + wide * LANES <= d; j += wide * LANES) {                                                                 \
        VEC sum[wide];                                                                                                 \
        _Pragma("GCC unroll 8") for (int k = 0; k < wide; k++) sum[k] = V(get)(g + j + k * LANES);                     \
        for (Py_ssize_t r = 0; r < rows; r++) {                                                                        \
            const VEC factor = V(all)(a[r]);                                                                           \
            const T *at = x + r * ld + j;                                                                              \
            _Pragma("GCC unroll 8") for (int k = 0; k < wide; k++) sum[k] = FMA(V(get)(at + k * LANES), factor, sum[k]); \
        }                                                                                                              \
        _Pragma("GCC unroll 8") for (int k = 0; k < wide; k++) V(put)(g + j + k * LANES, sum[k]);                      \
    }

static void V(add_rows)(const T *x, Py_ssize_t ld, const T *a, T *g, Py_ssize_t rows, Py_ssize_t d) {
    const Py_ssize_t rest = d % LANES;
    Py_ssize_t j = 0;
    STRETCH(8)
    STRETCH(4)
    STRETCH(2)
    STRETCH(1)
    if (rest) {
        VEC sum = PART(g + j, rest);
        for (Py_ssize_t r = 0; r < rows; r++) sum = FMA(PART(x + r * ld + j, rest), V(all)(a[r]), sum);
        PUT_PART(g + j, rest, sum);
    }
}
#undef STRETCH

/* FASTLOSS_GROUP rows anywhere in memory: what SGD needs to make their updates together (sgd.pyx, `visit_groups`).  The
   sweeps over them prefetch, line by line, the rows of a later group.  Long rows are fetched by two sweeps, as one alone
   would be at the limit of lines on their way (784 float32 in random order: 170 -> 152 ns per row); short ones by the
   first, which waits for nothing: in the second, full queues hold up the losses (54 float32: 72 -> 55 ns).

   w ends in zeros up to a whole vector of 64 bytes.  Its last part is stored and soon loaded again, and what a masked
   store wrote has to reach the cache before it can be loaded (54 float32, hinge, AVX-512: 51.8 -> 49.3 ns). */
#define LONG_ROW(d) ((d) * sizeof(T) > 1024)

/* Prefetch the cache lines at number j of so many rows, for a sweep in steps of LANES, and what that leaves out: rows do
   not start at a line, so they end in one more than the steps touch. */
static ALWAYS_INLINE void V(fetch)(const T *const *row, const int count, Py_ssize_t j) {
    if (LANES * sizeof(T) == 64 || j * sizeof(T) % 64 == 0)
#pragma GCC unroll 4
        for (int i = 0; i < count; i++) __builtin_prefetch(row[i] + j, 0, 3);
}

static ALWAYS_INLINE void V(fetch_end)(const T *const *row, const int count, Py_ssize_t whole, Py_ssize_t d) {
    for (int i = 0; i < count; i++) {
        __builtin_prefetch(row[i] + whole, 0, 3);
        __builtin_prefetch(row[i] + d - 1, 0, 3);
    }
}

/* gram[k, m] = sum_j row[k][j] row[m][j] for m < k; where `squares` is set for m = k too. */
static ALWAYS_INLINE void V(gram_fetching)(const T *const *row, const T *const *later, const int count, Py_ssize_t d,
                                           int squares, double *gram) {
    const Py_ssize_t whole = d - d % LANES, rest = d % LANES;
    VEC sum[8];     /* of which 6 are used */
    T dots[8];
    Py_ssize_t j = 0;
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) sum[i] = V(all)(0);
#define PRODUCTS(load)                                                                                                 \
    {                                                                                                                  \
        const VEC x0 = load(row[0]), x1 = load(row[1]), x2 = load(row[2]), x3 = load(row[3]);                          \
        sum[0] = FMA(x1, x0, sum[0]);                                                                                  \
        sum[1] = FMA(x2, x0, sum[1]);                                                                                  \
        sum[2] = FMA(x2, x1, sum[2]);                                                                                  \
        sum[3] = FMA(x3, x0, sum[3]);                                                                                  \
        sum[4] = FMA(x3, x1, sum[4]);                                                                                  \
        sum[5] = FMA(x3, x2, sum[5]);                                                                                  \
    }
#define SQUARES(load)                                                                                                  \
    {                                                                                                                  \
        const VEC x0 = load(row[0]), x1 = load(row[1]), x2 = load(row[2]), x3 = load(row[3]);                          \
        sum[0] = FMA(x0, x0, sum[0]);                                                                                \
        sum[1] = FMA(x1, x1, sum[1]);                                                                                \
        sum[2] = FMA(x2, x2, sum[2]);                                                                                \
        sum[3] = FMA(x3, x3, sum[3]);                                                                                \
    }
#define WHOLE(x) V(get)((x) + j)
#define REST(x) ROW_END((x) + whole, rest)
    for (; j < whole; j += LANES) {
        V(fetch)(later, count, j);
        PRODUCTS(WHOLE)
    }
    V(fetch_end)(later, count, whole, d);
    if (rest) PRODUCTS(REST)
    V(sums)(sum, 8, dots);
    gram[4] = dots[0];
    gram[8] = dots[1];
    gram[9] = dots[2];
    gram[12] = dots[3];
    gram[13] = dots[4];
    gram[14] = dots[5];
    if (!squares) return;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) sum[i] = V(all)(0);
    for (j = 0; j < whole; j += LANES) SQUARES(WHOLE)
    if (rest) SQUARES(REST)
    V(sums)(sum, 4, dots);
    for (int i = 0; i < FASTLOSS_GROUP; i++) gram[i * (FASTLOSS_GROUP + 1)] = dots[i];
#undef PRODUCTS
#undef SQUARES
#undef WHOLE
#undef REST
}

static void V(group_gram)(const T *const *row, const T *const *later, Py_ssize_t d, int squares, double *gram) {
    if (LONG_ROW(d))
        V(gram_fetching)(row, later, FASTLOSS_GROUP / 2, d, squares, gram);
    else
        V(gram_fetching)(row, later, FASTLOSS_GROUP, d, squares, gram);
}

/* z[k] = sum_j row[k][j] w[j]; two chains per row hide the latency of an fma. */
static ALWAYS_INLINE void V(dots_fetching)(const T *const *row, const T *const *later, const int count, const T *w,
                                           Py_ssize_t d, double *z) {
    const Py_ssize_t whole = d - d % LANES, rest = d % LANES;
    VEC sum[FASTLOSS_GROUP], odd[FASTLOSS_GROUP];
    T dots[FASTLOSS_GROUP];
    Py_ssize_t j = 0;
#pragma GCC unroll 4
    for (int i = 0; i < FASTLOSS_GROUP; i++) sum[i] = odd[i] = V(all)(0);
    for (; j + 2 * LANES <= d; j += 2 * LANES) {
        const VEC first = V(get)(w + j), second = V(get)(w + j + LANES);
        V(fetch)(later, count, j);
        V(fetch)(later, count, j + LANES);
#pragma GCC unroll 4
        for (int i = 0; i < FASTLOSS_GROUP; i++) {
            sum[i] = FMA(V(get)(row[i] + j), first, sum[i]);
            odd[i] = FMA(V(get)(row[i] + j + LANES), second, odd[i]);
        }
    }
    if (j < whole) {
        const VEC v = V(get)(w + j);
        V(fetch)(later, count, j);
#pragma GCC unroll 4
        for (int i = 0; i < FASTLOSS_GROUP; i++) sum[i] = FMA(V(get)(row[i] + j), v, sum[i]);
    }
    V(fetch_end)(later, count, whole, d);
    if (rest) {
        const VEC v = V(get)(w + whole);
#pragma GCC unroll 4
        for (int i = 0; i < FASTLOSS_GROUP; i++) odd[i] = FMA(ROW_END(row[i] + whole, rest), v, odd[i]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < FASTLOSS_GROUP; i++) sum[i] += odd[i];
    V(sums)(sum, FASTLOSS_GROUP, dots);
    for (int i = 0; i < FASTLOSS_GROUP; i++) z[i] = dots[i];
}

static void V(group_dots)(const T *const *row, const T *const *later, const T *w, Py_ssize_t d, double *z) {
    if (later && LONG_ROW(d))
        V(dots_fetching)(row, later + FASTLOSS_GROUP / 2, FASTLOSS_GROUP / 2, w, d, z);
    else
        V(dots_fetching)(row, row, 0, w, d, z);
}

/* w += sum_k a[k] row[k]; rows with a[k] = 0 are not looked at (most of them where a margin loss has been learnt). */
static void V(group_add)(const T *const *row, const double *a, T *w, Py_ssize_t d) {
    const Py_ssize_t whole = d - d % LANES, rest = d % LANES;
    const T *x[FASTLOSS_GROUP];
    VEC by[FASTLOSS_GROUP];
    int many = 0;
    for (int i = 0; i < FASTLOSS_GROUP; i++)
        if (a[i] != 0 || d <= 256) {
            x[many] = row[i];
            by[many++] = V(all)((T)a[i]);
        }
#define ADD(many)                                                                                                      \
    {                                                                                                                  \
        for (Py_ssize_t j = 0; j < whole; j += LANES) {                                                                \
            VEC v = V(get)(w + j);                                                                                     \
            _Pragma("GCC unroll 4") for (int i = 0; i < many; i++) v = FMA(V(get)(x[i] + j), by[i], v);                \
            V(put)(w + j, v);                                                                                          \
        }                                                                                                              \
        if (rest) {                                                                                                    \
            VEC v = V(get)(w + whole);                                                                                 \
            _Pragma("GCC unroll 4") for (int i = 0; i < many; i++) v = FMA(ROW_END(x[i] + whole, rest), by[i], v);     \
            V(put)(w + whole, v);                                                                                      \
        }                                                                                                              \
    }
    switch (many) {
    case 1: ADD(1) break;
    case 2: ADD(2) break;
    case 3: ADD(3) break;
    case 4: ADD(4) break;
    default: break;
    }
#undef ADD
}
#undef LONG_ROW

/* c[i, :] += sum_p a[i ai + p ap] b[p, :] for `many` values of i, where b and c are panels: rows of `wide` vectors. */
#define PANEL(many, wide)                                                                                              \
    {                                                                                                                  \
        VEC sum[many][wide];                                                                                           \
        _Pragma("GCC unroll 8") for (int i = 0; i < many; i++)                                                         \
            _Pragma("GCC unroll 8") for (int k = 0; k < wide; k++) sum[i][k] = V(get)(c + (i * wide + k) * LANES);                             \
        for (Py_ssize_t p = 0; p < length; p++) {                                                                      \
            VEC right[wide];                                                                                           \
            _Pragma("GCC unroll 8") for (int k = 0; k < wide; k++) right[k] = V(get)(b + (p * wide + k) * LANES);                              \
            _Pragma("GCC unroll 8") for (int i = 0; i < many; i++) {                                                   \
                const VEC left = V(all)(a[i * ai + p * ap]);                                                           \
                _Pragma("GCC unroll 8") for (int k = 0; k < wide; k++) sum[i][k] = FMA(left, right[k], sum[i][k]);                             \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 8") for (int i = 0; i < many; i++)                                                         \
            _Pragma("GCC unroll 8") for (int k = 0; k < wide; k++) V(put)(c + (i * wide + k) * LANES, sum[i][k]);                              \
    }

#if LANES_F64 == 8
#define MANY 8      /* 16 sums in 32 registers */
#else
#define MANY 4      /* 8 in 16 */
#endif
static void V(panel)(const T *a, Py_ssize_t ai, Py_ssize_t ap, const T *b, T *c, Py_ssize_t count, Py_ssize_t length,
                     int wide) {
    Py_ssize_t i0 = 0;
    if (wide == 1) {
        for (; i0 + MANY <= count; i0 += MANY, a += MANY * ai, c += MANY * LANES) PANEL(MANY, 1)
        for (; i0 < count; i0++, a += ai, c += LANES) PANEL(1, 1)
    } else {
        for (; i0 + MANY <= count; i0 += MANY, a += MANY * ai, c += MANY * 2 * LANES) PANEL(MANY, 2)
        for (; i0 < count; i0++, a += ai, c += 2 * LANES) PANEL(1, 2)
    }
}
#undef MANY
#undef PANEL

/* 4 x 4 numbers, transposed. */
typedef T V(four) __attribute__((vector_size(4 * sizeof(T))));

static inline void V(transpose4)(const T *from, Py_ssize_t ld_from, T *to, Py_ssize_t ld_to) {
    V(four) r0, r1, r2, r3, a, b, c, d;
    memcpy(&r0, from, sizeof r0);
    memcpy(&r1, from + ld_from, sizeof r0);
    memcpy(&r2, from + 2 * ld_from, sizeof r0);
    memcpy(&r3, from + 3 * ld_from, sizeof r0);
    a = __builtin_shufflevector(r0, r1, 0, 4, 2, 6);
    b = __builtin_shufflevector(r0, r1, 1, 5, 3, 7);
    c = __builtin_shufflevector(r2, r3, 0, 4, 2, 6);
    d = __builtin_shufflevector(r2, r3, 1, 5, 3, 7);
    r0 = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    r1 = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    r2 = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    r3 = __builtin_shufflevector(b, d, 2, 3, 6, 7);
    memcpy(to, &r0, sizeof r0);
    memcpy(to + ld_to, &r1, sizeof r0);
    memcpy(to + 2 * ld_to, &r2, sizeof r0);
    memcpy(to + 3 * ld_to, &r3, sizeof r0);
}

/* to[c ld_to + r] = from[r ld_from + c].  Blocks of a cache line by a cache line: every line of `to` is written whole,
   every line of `from` read whole, and the lines of the next block of rows are on their way meanwhile (column-major
   1e6 x 100 float64 from memory: 12 -> 24 GB/s on one core).  The last four of a direction may overlap the ones before:
   writing the same numbers twice costs less than a loop for what is left over. */
#define SIDE (64 / (Py_ssize_t)sizeof(T))
static void V(transpose)(const T *from, Py_ssize_t ld_from, T *to, Py_ssize_t ld_to, Py_ssize_t rows,
                         Py_ssize_t columns) {
    if (rows < 4 || columns < 4) {
        for (Py_ssize_t r = 0; r < rows; r++)
            for (Py_ssize_t c = 0; c < columns; c++) to[c * ld_to + r] = from[r * ld_from + c];
        return;
    }
    for (Py_ssize_t r0 = 0; r0 < rows; r0 += SIDE) {
        const Py_ssize_t r1 = r0 + SIDE < rows ? r0 + SIDE : rows, ahead = r1 + SIDE < rows ? r1 + SIDE : rows;
        for (Py_ssize_t c0 = 0; c0 < columns; c0 += SIDE) {
            const Py_ssize_t c1 = c0 + SIDE < columns ? c0 + SIDE : columns;
            for (Py_ssize_t r = r1; r < ahead; r++) __builtin_prefetch(from + r * ld_from + c0, 0, 3);
            for (Py_ssize_t r = r0; r < r1; r += 4) {
                const Py_ssize_t i = r < rows - 4 ? r : rows - 4;
                for (Py_ssize_t c = c0; c < c1; c += 4) {
                    const Py_ssize_t j = c < columns - 4 ? c : columns - 4;
                    V(transpose4)(from + i * ld_from + j, ld_from, to + j * ld_to + i, ld_to);
                }
            }
        }
    }
}
#undef SIDE

/* out[k] += sum_r b[r, k] for a panel of `wide` vectors. */
static void V(sum_panel)(const T *b, Py_ssize_t rows, int wide, double *out) {
    const Py_ssize_t width = wide * LANES;
    for (int k = 0; k < wide; k++) {
        VEC sum[4] = {{0}};
        T lanes[LANES];
        Py_ssize_t r = 0;
        for (; r + 4 <= rows; r += 4)
            for (int i = 0; i < 4; i++) sum[i] += V(get)(b + (r + i) * width + k * LANES);
        for (; r < rows; r++) sum[0] += V(get)(b + r * width + k * LANES);
        V(put)(lanes, (sum[0] + sum[1]) + (sum[2] + sum[3]));
        for (int j = 0; j < LANES; j++) out[k * LANES + j] += lanes[j];
    }
}

/* to += from, in float64. */
static void V(widen_add)(const T *from, double *to, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) to[i] += from[i];
}

/* Rows of a sparse matrix: row r has the numbers x[start[r]] ... in columns column[start[r]] ..., of integer type I.
   wide = 0: vectors w, g of one number per column, else panels of rows of `wide` vectors.
   times:  z[r] = sum x w[column]        add:  g[column] += x a[r], for the columns in [low, high) */
#define SPARSE(name, I)                                                                                                \
    static void V(name##_times)(const T *values, const I *columns, const I *start, Py_ssize_t rows, const T *w, T *z,  \
                                int wide) {                                                                            \
        for (Py_ssize_t r = 0; r < rows; r++) {                                                                        \
            const T *x = values + start[r];                                                                            \
            const I *column = columns + start[r];                                                                      \
            const Py_ssize_t n = (Py_ssize_t)(start[r + 1] - start[r]);                                                \
            Py_ssize_t j = 0;                                                                                          \
            if (wide == 0) {                                                                                           \
                T sum[4] = {0};         /* chains, or every addition would wait for the one before */                  \
                for (; j + 4 <= n; j += 4)                                                                             \
                    for (int i = 0; i < 4; i++) sum[i] = ONE_FMA(x[j + i], w[column[j + i]], sum[i]);                  \
                for (; j < n; j++) sum[0] = ONE_FMA(x[j], w[column[j]], sum[0]);                                       \
                z[r] = (sum[0] + sum[1]) + (sum[2] + sum[3]);                                                          \
            } else if (wide == 1) {                                                                                    \
                VEC sum = {0};                                                                                         \
                for (; j < n; j++) sum = FMA(V(all)(x[j]), V(get)(w + column[j] * LANES), sum);                        \
                V(put)(z + r * LANES, sum);                                                                            \
            } else {                                                                                                   \
                VEC first = {0}, second = {0};                                                                         \
                for (; j < n; j++) {                                                                                   \
                    const T *at = w + column[j] * 2 * LANES;                                                           \
                    const VEC factor = V(all)(x[j]);                                                                   \
                    first = FMA(factor, V(get)(at), first);                                                            \
                    second = FMA(factor, V(get)(at + LANES), second);                                                  \
                }                                                                                                      \
                V(put)(z + r * 2 * LANES, first);                                                                      \
                V(put)(z + r * 2 * LANES + LANES, second);                                                             \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void V(name##_add)(const T *values, const I *columns, const I *start, Py_ssize_t rows, const T *a,          \
                              double *g, int wide, Py_ssize_t low, Py_ssize_t high) {                                  \
        const Py_ssize_t width = wide ? wide * LANES : 1;                                                              \
        const int all = low == 0 && high == PY_SSIZE_T_MAX;                                                            \
        for (Py_ssize_t r = 0; r < rows; r++) {                                                                        \
            const T *x = values + start[r];                                                                            \
            const I *column = columns + start[r];                                                                      \
            const Py_ssize_t n = (Py_ssize_t)(start[r + 1] - start[r]);                                                \
            const T *by = a + r * width;                                                                               \
            const double only = by[0];                                                                                 \
            Py_ssize_t j = 0;                                                                                          \
            if (wide == 0 && only == 0) continue;                                                                      \
            if (wide == 0 && all) {                                                                                    \
                for (; j + 4 <= n; j += 4)                                                                             \
                    for (int i = 0; i < 4; i++) g[column[j + i]] = ONE_FMA_F64(x[j + i], only, g[column[j + i]]);      \
                for (; j < n; j++) g[column[j]] = ONE_FMA_F64(x[j], only, g[column[j]]);                               \
            }                                                                                                          \
            for (; j < n; j++) {                                                                                       \
                const Py_ssize_t at = (Py_ssize_t)column[j];                                                           \
                const double factor = x[j];                                                                            \
                if (!all && (at < low || at >= high)) continue;                                                        \
                if (wide == 0) g[at] = ONE_FMA_F64(factor, only, g[at]);                                                                 \
                else if (wide == 1) for (int k = 0; k < LANES; k++) g[at * LANES + k] += factor * by[k];               \
                else for (int k = 0; k < 2 * LANES; k++) g[at * 2 * LANES + k] += factor * by[k];                      \
            }                                                                                                          \
        }                                                                                                              \
    }
SPARSE(sparse32, int)
SPARSE(sparse64, long long)
#undef SPARSE
