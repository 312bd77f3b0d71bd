/* Products with a tile of rows, held in vector registers: the few loops that neither Cython nor the compiler's own
   vectoriser can write.  Compiled once per instruction set, like everything included by an ISA module.

   V(name) is a function or type for the working type T; simd_body.h is included once for float, once for double. */
#ifndef FASTLOSS_SIMD_H
#define FASTLOSS_SIMD_H
#include <Python.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
#error "fastloss needs GCC 12 or later, or Clang: __builtin_shufflevector"
#endif

/* For functions with a constant argument that decides how their loops are unrolled. */
#define ALWAYS_INLINE inline __attribute__((__always_inline__))

#define FASTLOSS_AT_ONCE 8      /* rows of a group: as many chains as hide the latency of an fma on two ports */
#define FASTLOSS_GROUP 4        /* rows SGD updates together: sgd.pyx has the count too */

/* Vectors of 64, 32 or 16 bytes.  PART/PUT_PART touch the first n lanes only and never read or write beyond them. */
#if defined(__AVX512F__)
#define LANES_F32 16
#define LANES_F64 8
typedef __m512 fastloss_vf32;
typedef __m512d fastloss_vf64;
#define FMA_F32(a, b, c) _mm512_fmadd_ps((a), (b), (c))
#define FMA_F64(a, b, c) _mm512_fmadd_pd((a), (b), (c))
#define PART_F32(p, n) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1u), (p))
#define PART_F64(p, n) _mm512_maskz_loadu_pd((__mmask8)((1u << (n)) - 1u), (p))
#define PUT_PART_F32(p, n, v) _mm512_mask_storeu_ps((p), (__mmask16)((1u << (n)) - 1u), (v))
#define PUT_PART_F64(p, n, v) _mm512_mask_storeu_pd((p), (__mmask8)((1u << (n)) - 1u), (v))
/* A masked load touches the cache lines of its whole width.  After the end of a row in random order that is a line
   nobody prefetched, so the end of such a row is loaded by a narrower vector where that suffices (SGD, 54 float32:
   hinge 49 -> 43 ns per row). */
static inline __m512 fastloss_row_end32(const float *p, Py_ssize_t n) {
    if (n <= 4) return _mm512_zextps128_ps512(_mm_maskz_loadu_ps((__mmask8)((1u << n) - 1u), p));
    if (n <= 8) return _mm512_zextps256_ps512(_mm256_maskz_loadu_ps((__mmask8)((1u << n) - 1u), p));
    return PART_F32(p, n);
}
static inline __m512d fastloss_row_end64(const double *p, Py_ssize_t n) {
    if (n <= 2) return _mm512_zextpd128_pd512(_mm_maskz_loadu_pd((__mmask8)((1u << n) - 1u), p));
    if (n <= 4) return _mm512_zextpd256_pd512(_mm256_maskz_loadu_pd((__mmask8)((1u << n) - 1u), p));
    return PART_F64(p, n);
}
#define ROW_END_F32(p, n) fastloss_row_end32((p), (n))
#define ROW_END_F64(p, n) fastloss_row_end64((p), (n))
#elif defined(__AVX2__) && defined(__FMA__)
#define LANES_F32 8
#define LANES_F64 4
typedef __m256 fastloss_vf32;
typedef __m256d fastloss_vf64;
static const int fastloss_mask32[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
static const long long fastloss_mask64[8] = {-1, -1, -1, -1, 0, 0, 0, 0};
#define MASK_F32(n) _mm256_loadu_si256((const __m256i *)(fastloss_mask32 + 8 - (n)))
#define MASK_F64(n) _mm256_loadu_si256((const __m256i *)(fastloss_mask64 + 4 - (n)))
#define FMA_F32(a, b, c) _mm256_fmadd_ps((a), (b), (c))
#define FMA_F64(a, b, c) _mm256_fmadd_pd((a), (b), (c))
#define PART_F32(p, n) _mm256_maskload_ps((p), MASK_F32(n))
#define PART_F64(p, n) _mm256_maskload_pd((p), MASK_F64(n))
#define PUT_PART_F32(p, n, v) _mm256_maskstore_ps((p), MASK_F32(n), (v))
#define PUT_PART_F64(p, n, v) _mm256_maskstore_pd((p), MASK_F64(n), (v))
#else
#define LANES_F32 4
#define LANES_F64 2
typedef float fastloss_vf32 __attribute__((vector_size(16)));
typedef double fastloss_vf64 __attribute__((vector_size(16)));
#if defined(__ARM_FEATURE_FMA) && defined(__aarch64__)
#include <arm_neon.h>
#define FMA_F32(a, b, c) ((fastloss_vf32)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#define FMA_F64(a, b, c) ((fastloss_vf64)vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b)))
#else
#define FMA_F32(a, b, c) ((a) * (b) + (c))
#define FMA_F64(a, b, c) ((a) * (b) + (c))
#endif
static inline fastloss_vf32 fastloss_part32(const float *p, Py_ssize_t n) {
    fastloss_vf32 v = {0};
    memcpy(&v, p, (size_t)n * sizeof(float));
    return v;
}
static inline fastloss_vf64 fastloss_part64(const double *p, Py_ssize_t n) {
    fastloss_vf64 v = {0};
    memcpy(&v, p, (size_t)n * sizeof(double));
    return v;
}
#define PART_F32(p, n) fastloss_part32((p), (n))
#define PART_F64(p, n) fastloss_part64((p), (n))
#define PUT_PART_F32(p, n, v) do { fastloss_vf32 put = (v); memcpy((p), &put, (size_t)(n) * sizeof(float)); } while (0)
#define PUT_PART_F64(p, n, v) do { fastloss_vf64 put = (v); memcpy((p), &put, (size_t)(n) * sizeof(double)); } while (0)
#endif

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define ONE_FMA_F32(a, b, c) __builtin_fmaf((a), (b), (c))
#define ONE_FMA_F64(a, b, c) __builtin_fma((a), (b), (c))
#else
#define ONE_FMA_F32(a, b, c) ((a) * (b) + (c))
#define ONE_FMA_F64(a, b, c) ((a) * (b) + (c))
#endif

#if !defined(ROW_END_F32)
#define ROW_END_F32 PART_F32
#define ROW_END_F64 PART_F64
#endif

/* Even and odd lanes of two vectors, those of the first in front. */
#define EVEN_2 0, 2
#define ODD_2 1, 3
#define EVEN_4 0, 2, 4, 6
#define ODD_4 1, 3, 5, 7
#define EVEN_8 0, 2, 4, 6, 8, 10, 12, 14
#define ODD_8 1, 3, 5, 7, 9, 11, 13, 15
#define EVEN_16 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD_16 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define GLUE_(a, b) a##b
#define GLUE(a, b) GLUE_(a, b)

#define T float
#define V(name) name##_f32
#define LANES LANES_F32
#define VEC fastloss_vf32
#define FMA FMA_F32
#define ONE_FMA ONE_FMA_F32
#define PART PART_F32
#define ROW_END ROW_END_F32
#define PUT_PART PUT_PART_F32
#include "simd_body.h"
#undef T
#undef V
#undef LANES
#undef VEC
#undef FMA
#undef ONE_FMA
#undef PART
#undef ROW_END
#undef PUT_PART

#define T double
#define V(name) name##_f64
#define LANES LANES_F64
#define VEC fastloss_vf64
#define FMA FMA_F64
#define ONE_FMA ONE_FMA_F64
#define PART PART_F64
#define ROW_END ROW_END_F64
#define PUT_PART PUT_PART_F64
#include "simd_body.h"
#undef T
#undef V
#undef LANES
#undef VEC
#undef FMA
#undef ONE_FMA
#undef PART
#undef ROW_END
#undef PUT_PART
#endif
