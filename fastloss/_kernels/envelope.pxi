# The Moreau envelope of a sum of losses (or of one own loss), found numerically; included in dispatch.pyx behind
# composite.pxi.
#
# The Moreau envelope of a convex sum with kinks, min over p of L(p) + (raw - p)^2 / (2 step).  The optimality condition
# phi(p) = (p - raw) / step + L'(p) rises, with a jump at every kink, so the solution is bracketed, with L and L' known
# at both ends.  Newton's step from an end is exact where L is a line or a parabola on the way.  Where the steps of both
# ends leave the bracket the solution is a kink between them: there, the parabolas of the two ends meet.  What is not
# found in a few rounds is bisected.
cdef enum:
    BLOCK_OF_ENVELOPES = 64     # searched for at once, unless a Python function wants them all
    SEARCH_TILES = 23           # numbers of 8 bytes that a search needs for an element
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

# Tiles of a search; those of `active` elements are kept in front.
cdef struct Search:
    const double *y
    const double *raw
    double *active_y
    double *points
    double *loss
    double *slope
    double *bend
    Py_ssize_t *active
    End *ends
    Bracket *brackets


cdef void lay_out_search(Search *search, Py_ssize_t size, double *room) noexcept nogil:
    search.active_y, search.points = room, room + size
    search.loss, search.slope, search.bend = room + 2 * size, room + 3 * size, room + 4 * size
    search.active = <Py_ssize_t *>(room + 5 * size)
    search.ends = <End *>(room + 6 * size)
    search.brackets = <Bracket *>(room + 11 * size)     # the rest: 12 numbers each


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


cdef Py_ssize_t look(const Composite *composite, Search *search, double step, Py_ssize_t many) noexcept nogil:
    """L and its derivatives at a point of each active element; returns `many`, or the first that is refused."""
    cdef Py_ssize_t j, i, accepted
    for j in range(many):
        search.active_y[j] = search.y[search.active[j]]
    accepted = run_composite(composite, False, search.active_y, search.points, search.loss, search.slope, search.bend,
                             many)
    if accepted == many:
        for j in range(many):
            i = search.active[j]
            search.ends[j].p, search.ends[j].loss = search.points[j], search.loss[j]
            search.ends[j].slope, search.ends[j].bend = search.slope[j], search.bend[j]
            search.ends[j].phi = (search.points[j] - search.raw[i]) / step + search.slope[j]
    return accepted


cdef Py_ssize_t solve_envelopes(const Composite *composite, Search *search, double step, Py_ssize_t n) noexcept nogil:
    """Brackets of which `trial` is the proximal point; returns n, or the element at which a function failed."""
    cdef Bracket *bracket
    cdef End *end
    cdef Py_ssize_t i, j, many, accepted
    cdef int round = 0
    for i in range(n):
        search.active[i], search.points[i] = i, search.raw[i]
    accepted = look(composite, search, step, n)
    if accepted != n:
        return accepted
    for i in range(n):      # L' rises, so the solution is between raw and raw - step L'(raw)
        bracket, end = &search.brackets[i], &search.ends[i]
        bracket.low = bracket.high = end[0]
        bracket.trial, bracket.kink = search.raw[i], False
        bracket.done = not (end.slope != 0 and end.slope - end.slope == 0)
    while round < ROUNDS:
        many = 0
        for i in range(n):
            bracket = &search.brackets[i]
            if not bracket.done and round > 0:
                propose(bracket, step, round)
            elif not bracket.done:
                bracket.trial = search.raw[i] - step * bracket.low.slope
            if not bracket.done:
                search.active[many], search.points[many] = i, bracket.trial
                many += 1
        if many == 0:
            return n
        accepted = look(composite, search, step, many)
        if accepted != many:
            return search.active[accepted]
        for j in range(many):
            i = search.active[j]
            narrow(&search.brackets[i], &search.ends[j], search.raw[i], step)
        round += 1
    return n


cdef Py_ssize_t some_envelopes(const Composite *composite, const double *y, const double *raw, double *loss,
                               double *grad, double *hess, Py_ssize_t n, double step, Search *search) noexcept nogil:
    """Envelopes of so many elements as a search has room for."""
    cdef Bracket *bracket
    cdef Py_ssize_t i, accepted
    cdef double slope, way
    search.y, search.raw = y, raw
    accepted = solve_envelopes(composite, search, step, n)
    if accepted != n:
        return accepted
    for i in range(n):
        search.points[i] = search.brackets[i].trial
    accepted = run_composite(composite, False, y, search.points, search.loss, search.slope, search.bend, n)
    if accepted != n:
        return accepted
    for i in range(n):
        bracket = &search.brackets[i]
        slope = search.slope[i]
        way = 0.0 if raw[i] == search.points[i] else raw[i] - search.points[i]
        if bracket.low.p < bracket.high.p:
            slope = min(max(way / step, bracket.low.slope), bracket.high.slope)
        if loss != NULL:    # least at the solution: insensitive to its rounding, which the slope's square is not
            loss[i] = search.loss[i] + 0.5 * way * (way / step)
        if grad != NULL:
            grad[i] = slope
        if hess != NULL:
            hess[i] = 1.0 / step if bracket.kink else search.bend[i] / (1.0 + step * search.bend[i])
    return n


cdef Py_ssize_t envelope_f64(const double *y, const double *raw, double *loss, double *grad, double *hess,
                             Py_ssize_t n, const double *params, void *data) noexcept nogil:
    """Envelopes of the composite `data`, for the step in params."""
    cdef double[SEARCH_TILES * BLOCK_OF_ENVELOPES] small
    cdef void *room = small
    cdef const Composite *composite = <const Composite *>data
    cdef Search search
    cdef Py_ssize_t size = room_for_pieces(composite, n, BLOCK_OF_ENVELOPES, SEARCH_TILES, &room), at = 0, many
    cdef Py_ssize_t accepted
    lay_out_search(&search, size, <double *>room)
    while at < n:
        many = min(n - at, size)
        accepted = some_envelopes(composite, y + at, raw + at, after(loss, at), after(grad, at), after(hess, at), many,
                                  params[0], &search)
        at += accepted
        if accepted != many:
            break
    if room != small:
        free(room)
    return at


cdef Py_ssize_t envelope_f32(const float *y, const float *raw, float *loss, float *grad, float *hess, Py_ssize_t n,
                             const double *params, void *data) noexcept nogil:
    """In float64: a proximal point differs from its raw prediction by less than float32 may tell."""
    cdef double[5 * BLOCK_OF_ENVELOPES] small
    cdef void *room = small
    cdef Py_ssize_t size = room_for_pieces(<const Composite *>data, n, BLOCK_OF_ENVELOPES, 5, &room), at = 0, i, many
    cdef Py_ssize_t accepted
    cdef double *tiles = <double *>room
    cdef double *losses = tiles + 2 * size
    cdef double *slopes = tiles + 3 * size
    cdef double *bends = tiles + 4 * size
    while at < n:
        many = min(n - at, size)
        for i in range(many):
            tiles[i], tiles[size + i] = y[at + i], raw[at + i]
        accepted = envelope_f64(tiles, tiles + size, losses, slopes, bends, many, params, data)
        if accepted != many:
            at += accepted
            break
        for i in range(many):
            if loss != NULL:
                loss[at + i] = <float>losses[i]
            if grad != NULL:
                grad[at + i] = <float>slopes[i]
            if hess != NULL:
                hess[at + i] = <float>bends[i]
        at += many
    if room != small:
        free(room)
    return at


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

    cdef Py_ssize_t block_rows(self, Py_ssize_t width) noexcept:
        return self.inner.block_rows(width)

    cdef bint failed(self) noexcept:
        return self.inner.failed()

    cdef int raise_failure(self) except -1:
        return self.inner.raise_failure()

    cdef Kernel refusing(self, double y, Py_ssize_t column):
        return self.inner.refusing(y, column)

    cdef const LossKernels *kernels(self):
        self.inner.params(False)
        return &self.own
