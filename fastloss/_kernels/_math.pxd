# cython: language_level=3, cdivision=True
"""Elementary functions for vectorised loops: branch-free, inline, float32 and float64.

Compilers turn a loop over these into SIMD code because nothing in them branches, calls or checks: selections choose
between values already computed, bit patterns move by memcpy, and ``cdivision`` holds here, where the functions are
defined (a division check is control flow: 480 -> 78 M elements/s).  ``fma`` is written out where it is wanted and the
compiler may form no other (``-ffp-contract=off``), so a value does not depend on its place in a block, on the vector
width or on the compiler; AVX2 and AVX-512 give the same bits.

Design errors, in ulp, over the whole range and with gradual underflow (the losses built on them are held to 4 ulp
against mpmath in tests/test_accuracy.py):

    exp, expm1, log, log1p, log1p_unit         1.0   (1.5 without FMA)
    log_cosh, atanh_rest_unit, sigmoid             2.0
    exp_sum                                    1.0 of the exact exponential of hi + lo

NaN goes through every function; each function says what it makes of infinities.
"""
cimport cython
from libc.math cimport INFINITY, NAN
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

ctypedef fused real:
    float
    double

cdef extern from * nogil:
    """
    /* fma where the CPU has one instruction for it; elsewhere a libm call would cost 50x, and these functions only
       need the sum, not the single rounding (product_error below is what is exact). */
    #if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    #define FASTLOSS_HAS_FMA 1
    #define fastloss_fma32(a, b, c) __builtin_fmaf((a), (b), (c))
    #define fastloss_fma64(a, b, c) __builtin_fma((a), (b), (c))
    #else
    #define FASTLOSS_HAS_FMA 0
    #define fastloss_fma32(a, b, c) ((a) * (b) + (c))
    #define fastloss_fma64(a, b, c) ((a) * (b) + (c))
    #endif
    #define fastloss_sqrt32(x) __builtin_sqrtf(x)
    #define fastloss_sqrt64(x) __builtin_sqrt(x)
    #define fastloss_abs32(x) __builtin_fabsf(x)
    #define fastloss_abs64(x) __builtin_fabs(x)
    #define fastloss_copysign32(x, s) __builtin_copysignf((x), (s))
    #define fastloss_copysign64(x, s) __builtin_copysign((x), (s))
    """
    const bint HAS_FMA "FASTLOSS_HAS_FMA"
    float fma32 "fastloss_fma32"(float, float, float) noexcept
    double fma64 "fastloss_fma64"(double, double, double) noexcept
    float sqrt32 "fastloss_sqrt32"(float) noexcept
    double sqrt64 "fastloss_sqrt64"(double) noexcept
    float abs32 "fastloss_abs32"(float) noexcept
    double abs64 "fastloss_abs64"(double) noexcept
    float copysign32 "fastloss_copysign32"(float, float) noexcept
    double copysign64 "fastloss_copysign64"(double, double) noexcept


# --------------------------------------------------------------------------------------------- selection and signs
cdef inline real select(bint condition, real a, real b) noexcept nogil:
    return a if condition else b


cdef inline real unless_nan(real x, real value) noexcept nogil:
    """value, but NaN where x is."""
    return value if x == x else x


cdef inline real fma(real a, real b, real c) noexcept nogil:
    """a*b + c, with one rounding where the CPU has the instruction."""
    if real is float:
        return fma32(a, b, c)
    else:
        return fma64(a, b, c)


cdef inline real sqrt(real x) noexcept nogil:
    if real is float:
        return sqrt32(x)
    else:
        return sqrt64(x)


cdef inline real fabs(real x) noexcept nogil:
    if real is float:
        return abs32(x)
    else:
        return abs64(x)


cdef inline real copysign(real x, real s) noexcept nogil:
    if real is float:
        return copysign32(x, s)
    else:
        return copysign64(x, s)


cdef inline real sign(real x) noexcept nogil:
    """-1, 0 or 1; zero and NaN come back as they are."""
    return <real>1 if x > 0 else (<real>-1 if x < 0 else x)


cdef inline real fmin(real a, real b) noexcept nogil:
    """The smaller; NaN in `a` stays, NaN in `b` is passed over."""
    return b if b < a else a


cdef inline real fmax(real a, real b) noexcept nogil:
    """The larger; NaN in `a` stays, NaN in `b` is passed over."""
    return b if b > a else a


# --------------------------------------------------------------------------------------------- products, exactly
cdef inline real _high_half(real a) noexcept nogil:
    """Upper half of the significand (float64 only: Veltkamp's splitting, 2^27 + 1)."""
    cdef real t = a * <real>134217729.0
    return t - (t - a)


cdef inline real product_error(real a, real b, real p) noexcept nogil:
    """a*b - p for p = the rounded product a*b: exact while nothing over- or underflows (|a|, |b| < 1e150)."""
    cdef real ah, al, bh, bl
    if real is float:
        return <float>(<double>a * <double>b - <double>p)
    else:
        if HAS_FMA:
            return fma64(a, b, -p)
        ah = _high_half(a)          # Dekker's product; the order of the sums is the proof
        al = a - ah
        bh = _high_half(b)
        bl = b - bh
        return ((ah * bh - p) + ah * bl + al * bh) + al * bl


# --------------------------------------------------------------------------------------------- powers of two
cdef inline real round_integer(real x) noexcept nogil:
    """The nearest integer for |x| < 2^22 (2^51): adding 1.5 * 2^23 (2^52) pushes the fraction out."""
    if real is float:
        return (x + <float>12582912.0) - <float>12582912.0
    else:
        return (x + 6755399441055744.0) - 6755399441055744.0


cdef inline real exp2_integer(real k) noexcept nogil:
    """2^k for an integer k in [-126, 127] ([-1022, 1023]): the biased exponent, read from the low bits of
    k + bias + 2^23 (2^52), moves to its place.  Only a logical left shift: AVX2 has no 64-bit arithmetic shift."""
    cdef uint32_t u32
    cdef uint64_t u64
    cdef real t
    if real is float:
        t = k + <float>8388735.0
        memcpy(&u32, &t, 4)
        u32 = u32 << 23
        memcpy(&t, &u32, 4)
    else:
        t = k + 4503599627371519.0
        memcpy(&u64, &t, 8)
        u64 = u64 << 52
        memcpy(&t, &u64, 8)
    return t


cdef inline real scale_by_exp2(real x, real k) noexcept nogil:
    """x * 2^k in two steps, so that results underflow gradually and overflow late."""
    cdef real half = round_integer(k * <real>0.5)
    return (x * exp2_integer(half)) * exp2_integer(k - half)


# --------------------------------------------------------------------------------------------- exp, expm1
# x = k log 2 + r, |r| <= log(2)/2 = 0.347;  log 2 in two parts, the first with trailing zeros so that k * LN2_HIGH is
# exact also without FMA.  exp r = 1 + r + r^2 q(r) with q of degree 10 (5): its error 1e-18 (4e-9) is far below an ulp.
cdef inline real _ln2_high(real like) noexcept nogil:
    return <real>0.693359375 if real is float else <real>6.93147180369123816490e-01


cdef inline real _ln2_low(real like) noexcept nogil:
    return <real>-2.12194440e-4 if real is float else <real>1.90821492927058770002e-10


cdef inline real _log2_multiple(real x) noexcept nogil:
    """The integer k nearest to x / log 2."""
    if real is float:
        return fma32(x, <float>1.44269504088896341, <float>12582912.0) - <float>12582912.0
    else:
        return fma64(x, 1.44269504088896341, 6755399441055744.0) - 6755399441055744.0


cdef inline real _without_multiple(real x, real k) noexcept nogil:
    """x - k log 2."""
    return fma(-k, _ln2_low(x), fma(-k, _ln2_high(x), x))


cdef inline real _exp_tail(real r) noexcept nogil:
    """r + r^2 q(r) = exp(r) - 1 on |r| <= 0.347, in Estrin's order: half the latency of Horner's."""
    cdef real r2 = r * r
    cdef real r4, a, b, c, q
    if real is float:
        a = fma(r, <real>0.1666666716337204, <real>0.5)
        b = fma(r, <real>0.00833331048488617, <real>0.041666463017463684)
        c = fma(r, <real>0.00019891030387952924, <real>0.0013933685841038823)
        q = fma(r2, fma(r2, c, b), a)
    else:
        r4 = r2 * r2
        a = fma(r2, fma(r, <real>0.008333333333326112, <real>0.04166666666666667),
                fma(r, <real>0.1666666666666667, <real>0.5))
        b = fma(r2, fma(r, <real>2.7557255297969643e-06, <real>2.4801587325605324e-05),
                fma(r, <real>0.0001984126987490126, <real>0.001388888888888373))
        c = fma(r2, <real>2.0914717341716378e-09, fma(r, <real>2.5105259538448494e-08, <real>2.755727357010214e-07))
        q = fma(r4, fma(r4, c, b), a)
    return fma(r2, q, r)


cdef inline real _exp_range(real x) noexcept nogil:
    """x, cut where exp is 0 or inf: e^-104.5 (e^-746) is below half the smallest subnormal, e^89 (e^710) above the
    largest number."""
    cdef real lowest = <real>-104.5 if real is float else <real>-746.0
    cdef real highest = <real>89.0 if real is float else <real>710.0
    return fmin(fmax(x, lowest), highest)


cdef inline real exp(real x) noexcept nogil:
    """-inf -> 0, inf -> inf; gradual underflow."""
    cdef real k
    x = _exp_range(x)
    k = _log2_multiple(x)
    return scale_by_exp2(<real>1 + _exp_tail(_without_multiple(x, k)), k)


cdef inline real exp_fall(real x) noexcept nogil:
    """exp(x) for x <= 0, to the bit, a sixth cheaper: 2^k is 2^(k + 32) (2^(k + 64)), a normal number, times a
    constant."""
    cdef real cut = fmax(x, <real>-104.5 if real is float else <real>-746.0)
    cdef real k = _log2_multiple(cut)
    cdef real high = <real>32 if real is float else <real>64
    cdef real low = <real>2.3283064365386963e-10 if real is float else <real>5.421010862427522e-20
    return ((<real>1 + _exp_tail(_without_multiple(cut, k))) * exp2_integer(k + high)) * low


cdef inline real exp_sum(real high, real low) noexcept nogil:
    """exp(high + low) for |low| of the order of ulp(high): for arguments that are products or quotients, whose own
    rounding error an exponential would magnify by their size.  Where high alone decides (0, inf), low is ignored."""
    cdef real x = _exp_range(high)
    cdef real k = _log2_multiple(x)
    cdef real r = _without_multiple(x, k) + select(x == high, low, <real>0)
    return scale_by_exp2(<real>1 + _exp_tail(r), k)


cdef inline real _expm1_range(real x) noexcept nogil:
    """x, cut where exp(x) - 1 rounds to -1 (below -18, -38) or is inf."""
    cdef real lowest = <real>-20.0 if real is float else <real>-40.0
    cdef real highest = <real>89.5 if real is float else <real>710.0
    return fmin(fmax(x, lowest), highest)


cdef inline real _expm1_of(real k, real r) noexcept nogil:
    """2^k exp(r) - 1.  Half of it first: 2^k would overflow where the result does not yet.  For k = 0 it is exactly
    the tail."""
    cdef real s = exp2_integer(k - 1)
    return <real>2 * fma(s, _exp_tail(r), s - <real>0.5)


cdef inline real expm1(real x) noexcept nogil:
    """-inf -> -1, inf -> inf."""
    cdef real k
    x = _expm1_range(x)
    k = _log2_multiple(x)
    return _expm1_of(k, _without_multiple(x, k))


cdef inline real expm1_sum(real high, real low) noexcept nogil:
    """exp(high + low) - 1, as exp_sum."""
    cdef real x = _expm1_range(high)
    cdef real k = _log2_multiple(x)
    return _expm1_of(k, _without_multiple(x, k) + select(x == high, low, <real>0))


# --------------------------------------------------------------------------------------------- logarithms
# log(1 + f) = 2 atanh(s), s = f / (2 + f);  2 atanh(s) = f - s (f - W), W = s^2 (2/3 + 2/5 s^2 + ...).
# Written so, the error of the quotient s enters only in the correction s (f - W), at most 0.45 of the result.
cdef inline real _atanh_rest(real z) noexcept nogil:
    """W for z = s^2 <= 0.0295, i.e. 1 + f in [sqrt(1/2), sqrt(2)]."""
    cdef real z2 = z * z
    if real is float:
        return z * fma(z2, fma(z, <real>0.23331613838672638, <real>0.28550779819488525),
                       fma(z, <real>0.4000012278556824, <real>0.6666666865348816))
    else:
        return z * fma(z2 * z2, fma(z2, <real>0.14617807153417325,
                                    fma(z, <real>0.15331611722055008, <real>0.1818289243253687)),
                       fma(z2, fma(z, <real>0.22222211089379496, <real>0.28571428626253836),
                           fma(z, <real>0.3999999999989889, <real>0.666666666666667)))


cdef inline real atanh_rest_unit(real z) noexcept nogil:
    """W = 2 atanh(s)/s - 2 for z = s^2 <= 1/9, i.e. f in [0, 1]: more terms, and no reduction of the argument.
    f - log(1 + f) is s (f - W), also where f and its logarithm agree in every digit."""
    cdef real z2 = z * z
    cdef real z4
    if real is float:
        return z * fma(z2 * z2, <real>0.23224329948425293,
                       fma(z2, fma(z, <real>0.2170657515525818, <real>0.285923570394516),
                           fma(z, <real>0.3999970555305481, <real>0.6666666865348816)))
    else:
        z4 = z2 * z2
        return z * fma(z4 * z4, fma(z2, <real>0.1563057780092285,
                                    fma(z, <real>0.07492143795550767, <real>0.10845178394880015)),
                       fma(z4, fma(z2, fma(z, <real>0.11734279061303197, <real>0.13335178631449257),
                                   fma(z, <real>0.1538454396486055, <real>0.18181819897962714)),
                           fma(z2, fma(z, <real>0.2222222219823677, <real>0.285714285716001),
                               fma(z, <real>0.39999999999999525, <real>0.6666666666666666))))


cdef inline real log1p_unit(real x) noexcept nogil:
    """log(1 + x) for x in [0, 1]: what softplus needs, at half the cost of log1p."""
    cdef real s = x / (<real>2 + x)
    return fma(-s, x - atanh_rest_unit(s * s), x)


cdef inline real log1p_unit_rest(real x, real value) noexcept nogil:
    """What the last rounding of value = log1p_unit(x) left out; for those who multiply the logarithm."""
    cdef real s = x / (<real>2 + x)
    return fma(-s, x - atanh_rest_unit(s * s), x - value)


cdef inline real _split_exponent(real u, real *m) noexcept nogil:
    """u = m 2^k with m in [sqrt(1/2), sqrt(2)); returns k.  u > 0 normal."""
    cdef uint32_t i32
    cdef uint64_t i64, e64
    cdef real k
    if real is float:
        memcpy(&i32, &u, 4)
        i32 = i32 + (<uint32_t>0x3f800000 - <uint32_t>0x3f3504f3)
        k = <real>(<int32_t>(i32 >> 23)) - <real>127.0
        i32 = (i32 & <uint32_t>0x007fffff) + <uint32_t>0x3f3504f3
        memcpy(m, &i32, 4)
    else:
        memcpy(&i64, &u, 8)
        i64 = i64 + (<uint64_t>0x3ff0000000000000 - <uint64_t>0x3fe6a09e667f3bcd)
        # The exponent as a double through the low bits of 2^52: AVX2 cannot convert 64-bit integers.
        e64 = (i64 >> 52) | <uint64_t>0x4330000000000000
        memcpy(&k, &e64, 8)
        k = k - <real>4503599627371519.0
        i64 = (i64 & <uint64_t>0x000fffffffffffff) + <uint64_t>0x3fe6a09e667f3bcd
        memcpy(m, &i64, 8)
    return k


cdef inline real _log_parts(real a, real x, real *main) noexcept nogil:
    """log(a + x) = main + the result: main is a multiple of log 2 (its upper part), the rest at most 0.35 and a bit."""
    cdef real u, lost, m, k, f, s, tiny, shift, scale
    u = a + x
    # What the sum lost: exact, the larger term first.
    lost = select(x > a, a - (u - x), x - (u - a))
    lost = select(u < <real>INFINITY, lost, <real>0)
    # A subnormal argument (only for a = 0) is made normal first: 2^25 (2^54).
    tiny = <real>1.17549435e-38 if real is float else <real>2.2250738585072014e-308
    shift = select(u < tiny, <real>25.0 if real is float else <real>54.0, <real>0)
    scale = select(u < tiny, <real>33554432.0 if real is float else <real>18014398509481984.0, <real>1)
    k = _split_exponent(u * scale, &m) - shift
    f = m - <real>1
    s = f / (<real>2 + f)
    lost = lost / u         # at most 2^-24 (2^-53): first order is enough
    main[0] = k * _ln2_high(x)      # exact
    return f - (s * (f - _atanh_rest(s * s)) - fma(k, _ln2_low(x), lost))


cdef inline real log_sum(real a, real x) noexcept nogil:
    """log(a + x) without losing x beside a (or a beside x), a >= 0.  0 -> -inf, below 0 -> NaN, inf -> inf."""
    cdef real u = a + x
    cdef real main, rest, value
    rest = _log_parts(a, x, &main)
    # u - u brings NaN back, which the bits of u have lost.  (A select on `u >= 0` instead would not vectorise: gcc 12
    # turns it into an unordered comparison that it cannot blend with.)
    value = (main + rest) + (u - u)
    value = select(u == <real>INFINITY, u, value)
    value = select(u == 0, <real>-INFINITY, value)
    return select(u < 0, <real>NAN, value)


cdef inline real log_sum_rest(real a, real x, real value) noexcept nogil:
    """What the last rounding of value = log_sum(a, x) left out; for those who multiply the logarithm."""
    cdef real main, rest
    rest = _log_parts(a, x, &main)
    return rest - (value - main)


cdef inline real log(real x) noexcept nogil:
    """0 -> -inf, below 0 -> NaN, inf -> inf."""
    return log_sum(<real>0, x)


cdef inline real log1p(real x) noexcept nogil:
    """log(1 + x); -1 -> -inf, below -1 -> NaN, inf -> inf."""
    return log_sum(<real>1, x)


cdef inline real power(real x, real y) noexcept nogil:
    """x^y for x >= 0, |y| log x of moderate size: exp(y log x) with y log x in two parts, since the exponential
    magnifies their error by their size.  0^y is 0, 1 or inf; x^0 is 1."""
    cdef real main, rest, large, small, total, lost, value
    rest = _log_parts(<real>0, x, &main)
    large = y * main
    small = y * rest
    total = large + small
    lost = select(fabs(large) > fabs(small), small - (total - large), large - (total - small))
    value = exp_sum(total, lost + product_error(y, main, large))
    value = select(x == <real>INFINITY, select(y > 0, x, <real>0), value)
    value = select(x == 0, select(y > 0, <real>0, <real>INFINITY), value)
    value = select(x >= 0, value, <real>NAN)
    return select(y == 0, unless_nan(x, <real>1), value)


cdef inline real sigmoid(real x) noexcept nogil:
    """1 / (1 + exp(-x)); -inf -> 0, inf -> 1.  On both sides of a sum of positive terms, so that tails keep digits."""
    cdef real e = exp_fall(-fabs(x))
    return select(x < 0, e, <real>1) / (<real>1 + e)


cdef inline real log_cosh(real x) noexcept nogil:
    """log cosh x, x^2/2 near 0; inf -> inf.  Near: x^2 times a polynomial in x^2; beyond |x| = log 2:
    |x| - log 2 + log(1 + exp(-2|x|)), where the difference cancels no digit that the sum does not bring back."""
    cdef real a = fabs(x)
    cdef real t = fmin(a, <real>0.6931472)
    cdef real z = t * t
    cdef real z2 = z * z
    cdef real z4, p, far
    if real is float:
        p = fma(z2 * z2, fma(z, <real>-0.0004618481907527894, <real>0.0020517436787486076),
                fma(z2, fma(z, <real>-0.006713909097015858, <real>0.022218693047761917),
                    fma(z, <real>-0.08333318680524826, <real>0.5)))
    else:
        z4 = z2 * z2
        p = fma(z4, fma(z4, fma(z4, <real>2.0379724628542305e-07,
                                fma(z2, fma(z, <real>-1.1851427237523624e-06, <real>4.081010228534387e-06),
                                    fma(z, <real>-1.1799080621262314e-05, <real>3.272650994261668e-05))),
                        fma(z2, fma(z, <real>-9.097732862381568e-05, <real>0.00025657858974110755),
                            fma(z, <real>-0.0007386027454982661, <real>0.002186948838558108))),
                fma(z2, fma(z, <real>-0.006746031745403228, <real>0.022222222222208557),
                    fma(z, <real>-0.08333333333333322, <real>0.5)))
    far = (a - _ln2_high(x)) + (log1p_unit(exp(<real>-2 * a)) - _ln2_low(x))
    return select(a < <real>0.6931472, z * p, far)
