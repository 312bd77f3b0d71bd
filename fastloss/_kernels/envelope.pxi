# The Moreau envelope of a sum of losses, found numerically; included in dispatch.pyx behind composite.pxi.
#
# The Moreau envelope of a convex sum with kinks, min over p of L(p) + (raw - p)^2 / (2 step).  The optimality condition
# phi(p) = (p - raw) / step + L'(p) rises, with a jump at every kink, so the solution is bracketed, with L and L' known
# at both ends.  Newton's step from an end is exact where L is a line or a parabola on the way.  Where the steps of both
# ends leave the bracket the solution is a kink between them: there, the parabolas of the two ends meet.  What is not
# found in a few rounds is bisected.
cdef enum:
    BLOCK_OF_ENVELOPES = 64
    ROUNDS = 100            # 4 to 8 are usual for sums of two or three losses
    FREE_ROUNDS = 7         # from then on every second one halves the bracket

cdef struct End:
    double p                # a point,
    double loss             # L,
    double slope            # L',
    double bend             # L'',
    double phi              # and the residual there

cdef struct Bracket:
    End low
    End high
    double trial
    bint done
    bint kink


cdef inline double newton(const End *end, double step) noexcept nogil:
    return end.p - end.phi / (1.0 / step + end.bend)


cdef inline double jump(const End *low, const End *high) noexcept nogil:
    """By how much the slope jumps between two points: what their mean curvature does not explain."""
    return high.slope - low.slope - 0.5 * (low.bend + high.bend) * (high.p - low.p)


cdef inline bint jumps(const End *low, const End *high) noexcept nogil:
    return jump(low, high) > 1e-9 * (fabs(low.slope) + fabs(high.slope))


cdef inline double meeting(const End *low, const End *high) noexcept nogil:
    """Where the parabolas of two points meet, taken with their mean curvature."""
    cdef double width = high.p - low.p, bend = 0.5 * (low.bend + high.bend)
    if not jumps(low, high):
        return low.p + 0.5 * width
    return low.p + (low.loss - high.loss + high.slope * width - 0.5 * bend * width * width) / jump(low, high)


cdef inline void settle(Bracket *bracket, const End *end) noexcept nogil:
    """The solution is this point, where the slope is the kernel's."""
    cdef End solution = end[0]
    bracket.low = bracket.high = solution
    bracket.trial, bracket.kink, bracket.done = solution.p, False, True


cdef void propose(Bracket *bracket, double step, int round) noexcept nogil:
    """The next point to look at, or the solution."""
    cdef const End *low = &bracket.low
    cdef const End *high = &bracket.high
    cdef double near = 4e-16 * (fabs(low.p) + fabs(high.p)), trial
    if not high.p - low.p > 4 * near:
        bracket.done, bracket.kink = True, jumps(low, high)
        bracket.trial = min(max(meeting(low, high), low.p), high.p)
        return
    trial = newton(low, step)
    if fabs(trial - low.p) <= 4e-16 * fabs(low.p):
        settle(bracket, low)
        return
    if not low.p < trial < high.p:
        trial = newton(high, step)
        if fabs(trial - high.p) <= 4e-16 * fabs(high.p):
            settle(bracket, high)
            return
    if not low.p < trial < high.p:      # a kink; where an end seems to be it, a look from the other side tells
        trial = min(max(meeting(low, high), low.p + 2 * near), high.p - 2 * near)
    if round > FREE_ROUNDS and round % 2 == 0:
        trial = 0.5 * (low.p + high.p)
    bracket.trial = trial


cdef void narrow(Bracket *bracket, const End *at, double raw, double step) noexcept nogil:
    if fabs(at.phi) <= 1e-15 * (fabs(at.slope) + (fabs(at.p) + fabs(raw)) / step):
        settle(bracket, at)
    elif at.phi < 0:
        bracket.low = at[0]
    else:
        bracket.high = at[0]


cdef void look(const Composite *composite, const double *y, const double *raw, double step, const Py_ssize_t *active,
               Py_ssize_t many, const double *points, End *ends) noexcept nogil:
    """L and its derivatives at a point of each active element."""
    cdef double ys[BLOCK_OF_ENVELOPES]
    cdef double loss[BLOCK_OF_ENVELOPES]
    cdef double slope[BLOCK_OF_ENVELOPES]
    cdef double bend[BLOCK_OF_ENVELOPES]
    cdef Py_ssize_t j
    for j in range(many):
        ys[j] = y[active[j]]
    run_composite(composite, False, ys, points, loss, slope, bend, many)
    for j in range(many):
        ends[j].p, ends[j].loss, ends[j].slope, ends[j].bend = points[j], loss[j], slope[j], bend[j]
        ends[j].phi = (points[j] - raw[active[j]]) / step + slope[j]


cdef void solve_envelopes(const Composite *composite, const double *y, const double *raw, double step,
                          Bracket *brackets, Py_ssize_t n) noexcept nogil:
    """Brackets of which `trial` is the proximal point."""
    cdef Py_ssize_t active[BLOCK_OF_ENVELOPES]
    cdef double points[BLOCK_OF_ENVELOPES]
    cdef End ends[BLOCK_OF_ENVELOPES]
    cdef Py_ssize_t i, j, many = n
    cdef int round = 0
    for i in range(n):
        active[i], points[i] = i, raw[i]
    look(composite, y, raw, step, active, n, points, ends)
    for i in range(n):      # L' rises, so the solution is between raw and raw - step L'(raw)
        brackets[i].low = brackets[i].high = ends[i]
        brackets[i].trial, brackets[i].kink = raw[i], False
        brackets[i].done = not (ends[i].slope != 0 and ends[i].slope - ends[i].slope == 0)
        points[i] = raw[i] - step * ends[i].slope
    while round < ROUNDS:
        many = 0
        for i in range(n):
            if round > 0 and not brackets[i].done:
                propose(&brackets[i], step, round)
                points[i] = brackets[i].trial
            if not brackets[i].done:
                active[many], points[many] = i, points[i]
                many += 1
        if many == 0:
            return
        look(composite, y, raw, step, active, many, points, ends)
        for j in range(many):
            narrow(&brackets[active[j]], &ends[j], raw[active[j]], step)
        round += 1


cdef Py_ssize_t envelope_f64(const double *y, const double *raw, double *loss, double *grad, double *hess,
                             Py_ssize_t n, const double *params, void *data) noexcept nogil:
    """Envelopes of the composite `data`, for the step in params."""
    cdef Bracket brackets[BLOCK_OF_ENVELOPES]
    cdef double losses[BLOCK_OF_ENVELOPES]
    cdef double slopes[BLOCK_OF_ENVELOPES]
    cdef double bends[BLOCK_OF_ENVELOPES]
    cdef double points[BLOCK_OF_ENVELOPES]
    cdef const Composite *composite = <const Composite *>data
    cdef double step = params[0], slope, way
    cdef Py_ssize_t at = 0, i, many, accepted
    while at < n:
        many = min(n - at, <Py_ssize_t>BLOCK_OF_ENVELOPES)
        accepted = run_composite(composite, False, y + at, raw + at, losses, <double *>NULL, <double *>NULL, many)
        if accepted != many:
            return at + accepted
        solve_envelopes(composite, y + at, raw + at, step, brackets, many)
        for i in range(many):
            points[i] = brackets[i].trial
        run_composite(composite, False, y + at, points, losses, slopes, bends, many)
        for i in range(many):
            slope = slopes[i]
            way = 0.0 if raw[at + i] == points[i] else raw[at + i] - points[i]
            if brackets[i].low.p < brackets[i].high.p:
                slope = min(max(way / step, brackets[i].low.slope), brackets[i].high.slope)
            if loss != NULL:    # least at the solution: insensitive to its rounding, which the slope's square is not
                loss[at + i] = losses[i] + 0.5 * way * (way / step)
            if grad != NULL:
                grad[at + i] = slope
            if hess != NULL:
                hess[at + i] = 1.0 / step if brackets[i].kink else bends[i] / (1.0 + step * bends[i])
        at += many
    return n


cdef Py_ssize_t envelope_f32(const float *y, const float *raw, float *loss, float *grad, float *hess, Py_ssize_t n,
                             const double *params, void *data) noexcept nogil:
    """In float64: a proximal point differs from its raw prediction by less than float32 may tell."""
    cdef double y_tile[BLOCK_OF_ENVELOPES]
    cdef double raw_tile[BLOCK_OF_ENVELOPES]
    cdef double losses[BLOCK_OF_ENVELOPES]
    cdef double slopes[BLOCK_OF_ENVELOPES]
    cdef double bends[BLOCK_OF_ENVELOPES]
    cdef Py_ssize_t at = 0, i, many, accepted
    while at < n:
        many = min(n - at, <Py_ssize_t>BLOCK_OF_ENVELOPES)
        for i in range(many):
            y_tile[i], raw_tile[i] = y[at + i], raw[at + i]
        accepted = envelope_f64(y_tile, raw_tile, losses, slopes, bends, many, params, data)
        if accepted != many:
            return at + accepted
        for i in range(many):
            if loss != NULL:
                loss[at + i] = <float>losses[i]
            if grad != NULL:
                grad[at + i] = <float>slopes[i]
            if hess != NULL:
                hess[at + i] = <float>bends[i]
        at += many
    return n


cdef class EnvelopeKernel(Kernel):
    """The Moreau envelope, for a step, of a convex composite that has no closed one."""
    cdef CompositeKernel inner
    cdef LossKernels own

    def __init__(self, CompositeKernel inner not None, double step):
        Kernel.__init__(self, inner.name, inner.target, inner.binary, [step], [step], {"step": step})
        self.inner, self.data = inner, &inner.composite
        self.outputs, self.python = inner.outputs, inner.python
        self.own.f32, self.own.f64 = envelope_f32, envelope_f64

    cdef Kernel session(self):
        cdef CompositeKernel inner = self.inner.session()
        return self if inner is self.inner else EnvelopeKernel(inner, self.params64[0])

    cdef bint failed(self) noexcept:
        return self.inner.failed()

    cdef int raise_failure(self) except -1:
        return self.inner.raise_failure()

    cdef Kernel refusing(self, double y, Py_ssize_t column):
        return self.inner.refusing(y, column)

    cdef const LossKernels *kernels(self):
        self.inner.params(False)
        return &self.own
