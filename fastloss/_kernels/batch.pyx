# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Losses over a whole batch: pairs by sorting, pairs in blocks, pairs within groups, ratios of sums.

Everything here takes contiguous float64 arrays that are already checked, of rows that all have a weight > 0, and works
in float64.  Sigmoids and softplus functions are the log loss's kernel of the instruction set in use, called on blocks
of score differences: with y = 1 its loss is log(1 + exp(-d)), its gradient -p(-d), its hessian p(d) p(-d).

Results do not depend on the number of threads: groups and blocks are the same for any, each has places of its own for
its sums, and they are added in order.
"""
import numpy as np

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange
from libc.math cimport INFINITY, fabs, log, log2
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from fastloss._kernels._math cimport exp
from fastloss._kernels.abi cimport BLOCK, kernel_f64
from fastloss._kernels.dispatch cimport Kernel, resolve_threads

cnp.import_array()

NO_HESSIAN = 0
EXACT = 1
UPPER_BOUND = 2

cdef enum:
    WITHOUT = 0
    AS_IT_IS = 1
    BOUND = 2
    DIGIT = 11                      # bits of a pass of the radix sort: 6 passes, tables of 16 kB
    DIGITS = 6
    BUCKETS = 1 << DIGIT
    STRETCHES = 16                  # of the longer side of a matrix of pairs, with sums of their own
    SLAB_PAIRS = 1 << 25            # pairs between two looks at pending signals: some 0.1 s
    BLOCKS_PER_CHUNK = 16

# The kernel of -log p, and its parameters.
cdef struct LogLoss:
    kernel_f64 function
    const double *params

# Pairs of a block: their score differences and coefficients in, losses and derivatives out.
cdef struct Tile:
    double ones[BLOCK]
    double d[BLOCK]
    double c[BLOCK]
    double loss[BLOCK]
    double grad[BLOCK]
    double hess[BLOCK]


cdef LogLoss _log_loss(Kernel kernel):
    cdef LogLoss found
    found.function = kernel.kernels().f64
    found.params = kernel.params(False)
    return found


cdef inline void prepare(Tile *tile) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(BLOCK):
        tile.ones[k] = 1


cdef inline void compute(const LogLoss *f, Tile *tile, Py_ssize_t m) noexcept nogil:
    """Loss, gradient and hessian of the differences d."""
    f.function(tile.ones, tile.d, tile.loss, tile.grad, tile.hess, m, f.params, NULL)


# ----------------------------------------------------------------------------------------- sorting
cdef struct Item:
    uint64_t key
    Py_ssize_t at


cdef inline uint64_t key_of(double x, bint descending) noexcept nogil:
    """Bits that order as x does: the sign flipped, and all bits of negative numbers.  -0 is 0."""
    cdef uint64_t bits
    x = x + 0.0
    memcpy(&bits, &x, 8)
    bits = ~bits if bits >> 63 else bits | (<uint64_t>1 << 63)
    return ~bits if descending else bits


cdef void radix_sort(Item *items, Item *spare, Py_ssize_t n) noexcept nogil:
    """Stable; digits that all keys share cost nothing, so float32 scores take 4 passes instead of 6."""
    cdef Py_ssize_t count[DIGITS][BUCKETS]
    cdef Py_ssize_t i, k, before, here
    cdef int digit, shift
    cdef Item *source = items
    cdef Item *target = spare
    memset(count, 0, sizeof(count))
    for i in range(n):
        for digit in range(DIGITS):
            count[digit][(items[i].key >> (digit * DIGIT)) & (BUCKETS - 1)] += 1
    for digit in range(DIGITS):
        shift = digit * DIGIT
        if count[digit][(items[0].key >> shift) & (BUCKETS - 1)] == n:
            continue
        before = 0
        for k in range(BUCKETS):
            here = count[digit][k]
            count[digit][k] = before
            before += here
        for i in range(n):
            k = (source[i].key >> shift) & (BUCKETS - 1)
            target[count[digit][k]] = source[i]
            count[digit][k] += 1
        source, target = target, source
    if source != items:
        memcpy(items, source, n * sizeof(Item))


def order(const double[::1] values, bint descending=False):
    """Indices that sort the values; equal ones stay in their order.

    Parameters
    ----------
    values : ndarray (n,), float64
    descending : bool

    Returns
    -------
    ndarray (n,), intp
    """
    cdef Py_ssize_t n = values.shape[0], i
    cdef cnp.ndarray memory = np.empty(2 * n * sizeof(Item), np.uint8)
    cdef cnp.ndarray result = np.empty(n, np.intp)
    cdef Item *items = <Item *>cnp.PyArray_DATA(memory)
    cdef Py_ssize_t *to = <Py_ssize_t *>cnp.PyArray_DATA(result)
    if n == 0:
        return result
    with nogil:
        for i in range(n):
            items[i].key = key_of(values[i], descending)
            items[i].at = i
        radix_sort(items, items + n, n)
        for i in range(n):
            to[i] = items[i].at
    return result


def order_in_groups(const double[::1] values, const Py_ssize_t[::1] starts):
    """Indices that sort the values from high to low within each group.

    Parameters
    ----------
    values : ndarray (n,), float64
    starts : ndarray (G + 1,), intp
        Group g has rows starts[g] ... starts[g + 1] - 1.

    Returns
    -------
    ndarray (n,), intp
    """
    cdef Py_ssize_t n = values.shape[0], groups = starts.shape[0] - 1, g, i
    cdef Py_ssize_t[::1] by_value = order(values, True)
    cdef Py_ssize_t[::1] next_place = np.array(starts[:groups])
    cdef Py_ssize_t[::1] group = np.empty(n, np.intp)
    result = np.empty(n, np.intp)
    cdef Py_ssize_t[::1] to = result
    with nogil:
        for g in range(groups):
            for i in range(starts[g], starts[g + 1]):
                group[i] = g
        for i in range(n):
            g = group[by_value[i]]
            to[next_place[g]] = by_value[i]
            next_place[g] += 1
    return result


# ----------------------------------------------------------------------------------------- pairs of two classes, sorted
cdef struct Side:                   # rows of one class, their scores ascending
    const double *score
    const double *weight
    const Py_ssize_t *row
    Py_ssize_t n


cdef double sweep(const Side *side, const Side *other, int sign, bint squared, int bend, double *grad,
                  double *hess) noexcept nogil:
    """Sums over the pairs of each row of `side`: derivatives, and the total of weight * loss.

    sign = 1: `side` holds the negatives; -1: the positives, whose pairs are those of the negatives with all scores
    negated.  With t the (signed) scores of `side`, ascending, and u those of `other`, the pairs of t are those whose
    rounded difference u - t is below 1, and each has the slack 1 - (u - t) > 0.  Rounding keeps order: a pair of t is a
    pair of all later ones, and the other side's sweep, where both scores change sign, rounds the same difference, so
    that both find the same pairs.  From one t to the next the slacks' power sums move on by

        a2 += delta (2 a1 + delta a0),   a1 += delta a0

    and new pairs are added: sums of positive terms alone, made of differences of scores, so that nothing cancels
    wherever the scores lie and however far they spread.
    """
    cdef double a0 = 0, a1 = 0, a2 = 0, total = 0, lost = 0, before = 0, t, u, w, delta, term, sum_
    cdef Py_ssize_t j, at, place, k = 0
    for j in range(side.n):
        at = j if sign > 0 else side.n - 1 - j
        t = sign * side.score[at]
        w = side.weight[at]
        if j and a0 > 0 and t > before:
            delta = t - before
            a2 += delta * (2 * a1 + delta * a0)
            a1 += delta * a0
        before = t
        while k < other.n:
            place = k if sign > 0 else other.n - 1 - k
            u = sign * other.score[place]
            if not u - t < 1:
                break
            delta = 1 - (u - t)
            a0 += other.weight[place]
            a1 += other.weight[place] * delta
            a2 += other.weight[place] * delta * delta
            k += 1
        term = w * (a2 if squared else a1)
        sum_ = total + term         # compensated: what the rounding of this sum lost, the smaller being the term's
        lost += (total - sum_) + term if total >= term else (term - sum_) + total
        total = sum_
        grad[side.row[at]] = sign * w * (2 * a1 if squared else a0)
        if bend == AS_IT_IS:
            hess[side.row[at]] = 2 * w * a0 if squared else 0
    return total + lost if total < INFINITY else total


cdef void split(const Item *items, const double *raw, const double *weight, const uint8_t *positive, Py_ssize_t n,
                double *score, double *weights, Py_ssize_t *row, Side *low, Side *high) noexcept nogil:
    """Sorted rows into those of the negatives (first in the arrays) and those of the positives."""
    cdef Py_ssize_t i, at, to, first = 0, second
    for i in range(n):
        first += not positive[i]
    low.score, low.weight, low.row, low.n = score, weights, row, first
    high.score, high.weight, high.row, high.n = score + first, weights + first, row + first, n - first
    second, first = first, 0
    for i in range(n):
        at = items[i].at
        if positive[at]:
            to = second
            second += 1
        else:
            to = first
            first += 1
        score[to], weights[to], row[to] = raw[at], weight[at], at


def sorted_pairs(const double[::1] raw, const double[::1] weight, const uint8_t[::1] positive, bint squared, int bend,
                 n_threads):
    """Sum over pairs of a positive and a negative row of w_i w_j l(raw_i - raw_j), l the hinge or its square.

    Parameters
    ----------
    raw, weight : ndarray (n,), float64
        Finite scores; weights.
    positive : ndarray (n,), uint8
    squared : bool
    bend : NO_HESSIAN, EXACT or UPPER_BOUND
        The last is left to the caller.
    n_threads : int or None

    Returns
    -------
    total : float
    gradient, hessian : ndarray (n,)
    """
    cdef Py_ssize_t n = raw.shape[0], i
    cdef cnp.ndarray items = np.empty(2 * n * sizeof(Item), np.uint8)
    cdef cnp.ndarray score = np.empty(n), weights = np.empty(n), row = np.empty(n, np.intp)
    gradient, hessian = np.zeros(n), np.zeros(n if bend else 0)
    cdef double[::1] grad = gradient, hess = hessian
    cdef double *hess_at = NULL
    cdef Item *item = <Item *>cnp.PyArray_DATA(items)
    cdef double *scores_at = <double *>cnp.PyArray_DATA(score)
    cdef double *weights_at = <double *>cnp.PyArray_DATA(weights)
    cdef Py_ssize_t *row_at = <Py_ssize_t *>cnp.PyArray_DATA(row)
    cdef int threads = resolve_threads(n_threads, 2 if n > BLOCK else 1), s
    cdef Side sides[2]
    cdef double totals[2]
    if n == 0:
        return 0.0, gradient, hessian
    if bend:
        hess_at = &hess[0]
    with nogil:
        for i in range(n):
            item[i].key = key_of(raw[i], False)
            item[i].at = i
        radix_sort(item, item + n, n)
        split(item, &raw[0], &weight[0], &positive[0], n, scores_at, weights_at, row_at, &sides[0], &sides[1])
        for s in prange(2, num_threads=threads, schedule="static"):
            totals[s] = sweep(&sides[s], &sides[1 - s], 1 - 2 * s, squared, bend, &grad[0], hess_at)
    return totals[0], gradient, hessian


# ----------------------------------------------------------------------------------------- all pairs of two classes
cdef void pair_stretch(const LogLoss *f, const double *few, const double *few_weight, Py_ssize_t first,
                       Py_ssize_t last, const double *many, const double *many_weight, Py_ssize_t n, double sign,
                       int bend, double *total, double *few_grad, double *few_hess, double *many_grad,
                       double *many_hess) noexcept nogil:
    """Pairs of rows first ... last - 1 of the one class with n rows of the other, in blocks; adds to all sums.

    sign = 1 where `few` are the positives: the difference is that of the positive to the negative row.
    """
    cdef Tile tile
    cdef Py_ssize_t i, j, k, m
    cdef double s, w, loss, slope, bending
    prepare(&tile)
    j = 0
    while j < n:
        m = min(<Py_ssize_t>BLOCK, n - j)
        for i in range(first, last):
            s, w = few[i], few_weight[i]
            for k in range(m):
                tile.d[k] = sign * (s - many[j + k])
                tile.c[k] = w * many_weight[j + k]
            compute(f, &tile, m)
            loss = slope = bending = 0
            for k in range(m):
                loss = loss + tile.c[k] * tile.loss[k]
                slope = slope + tile.c[k] * tile.grad[k]
                many_grad[j + k] -= sign * tile.c[k] * tile.grad[k]
            if bend == AS_IT_IS:
                for k in range(m):
                    bending = bending + tile.c[k] * tile.hess[k]
                    many_hess[j + k] += tile.c[k] * tile.hess[k]
                few_hess[i] += bending
            total[0] += loss
            few_grad[i] += sign * slope
        j += BLOCK


def all_pairs(Kernel kernel not None, const double[::1] few, const double[::1] few_weight, const double[::1] many,
              const double[::1] many_weight, bint few_are_positive, int bend, n_threads):
    """Sum over pairs of w_i w_j log(1 + exp(-(raw_i - raw_j))), raw_i the positive's score.

    Parameters
    ----------
    kernel : Kernel
        Of the log loss.
    few, few_weight, many, many_weight : ndarray, float64
        Scores and weights of the rarer class and of the other.
    few_are_positive : bool
    bend : NO_HESSIAN, EXACT or UPPER_BOUND
        The last is left to the caller.
    n_threads : int or None

    Returns
    -------
    total : float
    few_gradient, few_hessian, many_gradient, many_hessian : ndarray
    """
    cdef LogLoss f = _log_loss(kernel)
    cdef Py_ssize_t n = few.shape[0], m = many.shape[0], c, first = 0, last
    cdef Py_ssize_t length = (((m + STRETCHES - 1) // STRETCHES + BLOCK - 1) // BLOCK) * BLOCK
    cdef Py_ssize_t stretches = (m + length - 1) // length if m and n else 0
    cdef Py_ssize_t step = max(<Py_ssize_t>1, SLAB_PAIRS // max(<Py_ssize_t>1, m))
    cdef int threads = resolve_threads(n_threads, stretches if n * m > 1 << 14 else 1)
    cdef double sign = 1 if few_are_positive else -1
    many_gradient, many_hessian = np.zeros(m), np.zeros(m if bend else 0)
    few_gradient = np.zeros((max(stretches, 1), n))
    few_hessian = np.zeros((max(stretches, 1), n if bend else 0))
    totals = np.zeros(max(stretches, 1))
    cdef double[::1] total = totals, many_grad = many_gradient, many_hess = many_hessian
    cdef double[:, ::1] few_grad = few_gradient, few_hess = few_hessian
    while first < n and stretches:
        last = min(first + step, n)
        with nogil:
            for c in prange(stretches, num_threads=threads, schedule="dynamic"):
                pair_stretch(&f, &few[0], &few_weight[0], first, last, &many[c * length], &many_weight[c * length],
                             min(length, m - c * length), sign, bend, &total[c], &few_grad[c, 0],
                             &few_hess[c, 0] if bend else NULL, &many_grad[c * length],
                             &many_hess[c * length] if bend else NULL)
        first = last
        PyErr_CheckSignals()
    return in_order(totals), in_order(few_gradient), in_order(few_hessian), many_gradient, many_hessian


def in_order(values):
    """Sum along the first axis, one after the other."""
    total = values[0]
    for row in values[1:]:
        total = total + row
    return total


# ----------------------------------------------------------------------------------------- groups
# Rows of a group, in the order its loss wants them.
cdef struct Group:
    const double *score
    const double *grade             # or gain
    const double *weight
    Py_ssize_t n
    double *grad
    double *hess                    # not read where no hessian is wanted
    double *spare                   # three numbers per row, kept from call to call


# What the losses' parameters are to their functions.
cdef struct Settings:
    LogLoss f
    int bend
    double scale                    # of score differences
    Py_ssize_t truncation
    bint flag
    const double *discount          # 1 / log2(2 + rank)


# A group's loss is the sum of what calls for its rows first ... last - 1 return, in order and `passes` times over: long
# groups are walked in stretches, so that Ctrl-C is noticed between them.
ctypedef double (*group_loss)(const Settings *settings, const Group *group, const double *ideal, int turn,
                              Py_ssize_t first, Py_ssize_t last) noexcept nogil


cdef void add_pairs(const Settings *settings, const Group *group, Py_ssize_t i, Py_ssize_t j, Py_ssize_t m,
                    const Tile *tile, const double *sign) noexcept nogil:
    """Derivatives of the pairs of row i with rows j ... j + m - 1 to the rows'; sign NULL: row i is the better one."""
    cdef double slope = 0, bending = 0, one, scale = settings.scale
    cdef Py_ssize_t k
    for k in range(m):
        one = scale * tile.c[k] * tile.grad[k] * (1 if sign == NULL else sign[k])
        slope += one
        group.grad[j + k] -= one
    group.grad[i] += slope
    if settings.bend:
        for k in range(m):
            one = scale * scale * tile.c[k] * (tile.hess[k] if settings.bend == AS_IT_IS else 0.25)
            bending += one
            group.hess[j + k] += one
        group.hess[i] += bending


cdef double pairwise_logistic(const Settings *settings, const Group *group, const double *ideal, int turn,
                              Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Rows by grade, from high to low: a row's pairs are with the rows after the last of its own grade."""
    cdef Tile tile
    cdef Py_ssize_t i, j, k, m, lower = first
    cdef double total = 0, loss
    prepare(&tile)
    for i in range(first, last):
        while lower < group.n and group.grade[lower] >= group.grade[i]:
            lower += 1
        j = lower
        while j < group.n:
            m = min(<Py_ssize_t>BLOCK, group.n - j)
            for k in range(m):
                tile.d[k] = group.score[i] - group.score[j + k]
                tile.c[k] = group.weight[i] * group.weight[j + k]
            compute(&settings.f, &tile, m)
            loss = 0
            for k in range(m):
                loss += tile.c[k] * tile.loss[k]
            total += loss
            add_pairs(settings, group, i, j, m, &tile, NULL)
            j += m
    return total


cdef double lambdarank(const Settings *settings, const Group *group, const double *ideal, int turn,
                       Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Rows by score, from high to low; `grade` and `ideal` are gains, the latter from high to low."""
    cdef Tile tile
    cdef double sign[BLOCK]
    cdef double *best = group.spare             # the ideal DCG
    cdef double *lambdas = group.spare + 1      # twice the pairs' gradients
    cdef double *total = group.spare + 2
    cdef double c, apart
    cdef Py_ssize_t i, j, k, m, n = group.n
    cdef bint by_distance = settings.flag and group.score[0] != group.score[n - 1]
    prepare(&tile)
    if first == 0:
        best[0] = lambdas[0] = total[0] = 0
        for i in range(min(n, settings.truncation)):
            best[0] += ideal[i] * settings.discount[i]
    if not best[0] > 0:
        return 0
    for i in range(first, min(last, settings.truncation)):
        j = i + 1
        while j < n:
            m = min(<Py_ssize_t>BLOCK, n - j)
            for k in range(m):
                apart = group.score[i] - group.score[j + k]
                c = fabs(group.grade[i] - group.grade[j + k]) / best[0]
                c = c * (settings.discount[i] - settings.discount[j + k])
                sign[k] = -1 if group.grade[i] < group.grade[j + k] else 1
                tile.d[k] = settings.scale * sign[k] * apart
                tile.c[k] = c / (0.01 + fabs(apart)) if by_distance else c
            compute(&settings.f, &tile, m)
            for k in range(m):
                lambdas[0] -= 2 * settings.scale * tile.c[k] * tile.grad[k]
                tile.c[k] *= group.weight[i] * group.weight[j + k]
                total[0] += tile.c[k] * tile.loss[k]
            add_pairs(settings, group, i, j, m, &tile, sign)
            j += m
    if last < n:
        return 0
    c = log2(1 + lambdas[0]) / lambdas[0] if settings.flag and lambdas[0] > 0 else 1
    for i in range(n):
        group.grad[i] *= c
        if settings.bend:
            group.hess[i] *= c
    return total[0] * c


cdef double listnet(const Settings *settings, const Group *group, const double *ideal, int turn, Py_ssize_t first,
                    Py_ssize_t last) noexcept nogil:
    """`grade` holds the targets' masses before they are normalised.  All in the first call.

    Weights are taken in units of the heaviest: their scale changes nothing, and equal ones are 1, without a logarithm.
    """
    cdef double top = group.score[0], heaviest = group.weight[0], mass = 0, partition = 0, mean = 0, p, share
    cdef Py_ssize_t i
    if first > 0:
        return 0
    for i in range(group.n):
        top = group.score[i] if group.score[i] > top else top
        heaviest = group.weight[i] if group.weight[i] > heaviest else heaviest
    for i in range(group.n):
        mass += group.weight[i] / heaviest * group.grade[i]
    if not mass > 0:
        return 0
    for i in range(group.n):
        share = group.weight[i] / heaviest
        group.spare[i] = share * exp(group.score[i] - top)
        partition += group.spare[i]
        p = share * group.grade[i] / mass
        if p > 0:       # log p = log share + score - log partition, the last for all at the end
            mean += p * (group.score[i] - top + (0 if share == 1 else log(share)))
        else:           # NaN of a score
            mean += p * (group.score[i] - top)
        group.grad[i] = p
    for i in range(group.n):
        p = group.spare[i] / partition
        group.grad[i] = p - group.grad[i]
        if settings.bend:
            group.hess[i] = p * (1 - p) if settings.bend == AS_IT_IS else 0.25
    return log(partition) - mean


cdef double approx_ndcg(const Settings *settings, const Group *group, const double *ideal, int turn,
                        Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Rows by weighted gain (`grade`), from high to low.  spare: smooth ranks, dL/d rank, d2L/d rank2.

    Two turns: ranks, then derivatives.
    """
    cdef Tile tile
    cdef double *rank = group.spare
    cdef double *slope = group.spare + group.n
    cdef double *bend = group.spare + 2 * group.n
    cdef double value = 0
    cdef Py_ssize_t i, j, k, m, n = group.n
    if not group.grade[0] > 0:
        return 0
    prepare(&tile)
    if first == 0 and turn == 0:
        for i in range(n):
            rank[i] = 1
    elif first == 0:
        value = by_ranks(settings, group, rank, slope, bend)
    for i in range(first, last):
        j = i + 1
        while j < n:
            m = differences(settings, group, i, j, &tile)
            if turn == 1:
                move_ranks(settings, group, i, j, m, &tile, slope, bend, rank)
            else:
                for k in range(m):
                    rank[i] -= tile.grad[k]
                    rank[j + k] += 1 + tile.grad[k]
            j += m
    if last == n and turn == 1 and settings.bend == AS_IT_IS:
        for i in range(n):
            group.hess[i] += settings.scale * settings.scale * bend[i] * rank[i] * rank[i]
    return value


cdef double by_ranks(const Settings *settings, const Group *group, double *rank, double *slope,
                     double *bend) noexcept nogil:
    """The loss and its derivatives by the ranks, which then make room for the sums of each row's p (1 - p)."""
    cdef double best = 0, value = 0, d, b, ln2 = log(2.0)
    cdef Py_ssize_t i
    for i in range(group.n):
        best += group.grade[i] * settings.discount[i]
    # D(r) = 1/log2(1 + r):  D' = -D^2 / ((1 + r) ln 2),  D'' = -D' (1 + 2 D/ln 2) / (1 + r)
    for i in range(group.n):
        d = 1 / log2(1 + rank[i])
        b = 1 / (1 + rank[i])
        value += group.grade[i] / best * d
        slope[i] = group.grade[i] / best * d * d * b / ln2
        bend[i] = -slope[i] * b * (1 + 2 * d / ln2)
        rank[i] = 0
    return 1 - value


cdef Py_ssize_t differences(const Settings *settings, const Group *group, Py_ssize_t i, Py_ssize_t j,
                            Tile *tile) noexcept nogil:
    """A block of row i's scaled differences to the rows from j on, and their sigmoids; returns its length."""
    cdef Py_ssize_t m = min(<Py_ssize_t>BLOCK, group.n - j), k
    for k in range(m):
        tile.d[k] = settings.scale * (group.score[i] - group.score[j + k])
    compute(&settings.f, tile, m)
    return m


cdef void move_ranks(const Settings *settings, const Group *group, Py_ssize_t i, Py_ssize_t j, Py_ssize_t m,
                     const Tile *tile, const double *slope, const double *bend, double *sums) noexcept nogil:
    """Derivatives of the smooth ranks of row i and rows j ... by each other's scores."""
    cdef double scale = settings.scale, one, p
    cdef Py_ssize_t k
    for k in range(m):
        p = tile.hess[k]
        one = scale * (slope[j + k] - slope[i]) * p
        group.grad[i] += one
        group.grad[j + k] -= one
    if settings.bend == AS_IT_IS:
        for k in range(m):
            p = tile.hess[k]
            one = (slope[j + k] - slope[i]) * p * (-1 - 2 * tile.grad[k])       # p'' = p' (1 - 2 p)
            group.hess[i] += scale * scale * (one + bend[j + k] * p * p)
            group.hess[j + k] += scale * scale * (one + bend[i] * p * p)
            sums[i] += p
            sums[j + k] += p
    elif settings.bend == BOUND:
        for k in range(m):
            one = scale * scale * fabs(slope[j + k] - slope[i]) * tile.hess[k]
            group.hess[i] += one
            group.hess[j + k] += one


def pairs_of_grades(const double[::1] grade, const double[::1] weight, const Py_ssize_t[::1] starts):
    """Sum of w_i w_j over the pairs of rows of a group with different grades.

    Parameters
    ----------
    grade, weight : ndarray (n,), float64
        Grades of each group from high to low.
    starts : ndarray (G + 1,), intp

    Returns
    -------
    float
    """
    cdef double total = 0, below, level         # weights of lower grades, and of the present one
    cdef Py_ssize_t g, i
    with nogil:
        for g in range(starts.shape[0] - 1):
            below = level = 0
            for i in range(starts[g + 1] - 1, starts[g] - 1, -1):
                if i + 1 < starts[g + 1] and grade[i] != grade[i + 1]:
                    below += level
                    level = 0
                level += weight[i]
                total += weight[i] * below
    return total


def grouped(str name, Kernel kernel not None, const double[::1] score, const double[::1] grade,
            const double[::1] weight, const double[::1] ideal, const Py_ssize_t[::1] starts, int bend, n_threads,
            double scale=1, Py_ssize_t truncation=0, bint flag=False):
    """Values of the groups and their derivatives.

    Parameters
    ----------
    name : str
        "pairwise_logistic", "lambdarank", "listnet" or "approx_ndcg".
    kernel : Kernel
        Of the log loss.
    score, grade, weight, ideal : ndarray (n,), float64
        Rows of each group in the order, and with the gains, the loss's function wants; ideal: sorted gains.
    starts : ndarray (G + 1,), intp
    bend : NO_HESSIAN, EXACT or UPPER_BOUND
    n_threads : int or None
    scale, truncation, flag
        The loss's parameters.

    Returns
    -------
    values : ndarray (G,)
    gradient, hessian : ndarray (n,)
    """
    cdef group_loss function
    cdef Settings settings
    cdef Py_ssize_t n = score.shape[0], groups = starts.shape[0] - 1, g, first = 0, last, work, longest = 0
    cdef int threads = resolve_threads(n_threads, groups if n > BLOCK else 1), turns = 1
    if name == "pairwise_logistic":
        function = pairwise_logistic
    elif name == "lambdarank":
        function = lambdarank
    elif name == "listnet":
        function = listnet
    else:
        function, turns = approx_ndcg, 2
    values, gradient, hessian = np.zeros(groups), np.zeros(n), np.zeros(n if bend else 0)
    if n == 0:
        return values, gradient, hessian
    for g in range(groups):
        longest = max(longest, starts[g + 1] - starts[g])
    cdef double[::1] value = values, grad = gradient, hess = hessian, spare = np.empty(3 * n)
    cdef const double[::1] discount = 1 / np.log2(np.arange(2.0, 2.0 + longest))
    cdef Group rows
    rows.score, rows.grade, rows.weight, rows.n = &score[0], &grade[0], &weight[0], n
    rows.grad, rows.hess, rows.spare = &grad[0], &hess[0] if bend else NULL, &spare[0]
    settings.f, settings.bend, settings.scale = _log_loss(kernel), bend, scale
    settings.truncation, settings.flag, settings.discount = truncation, flag, &discount[0]
    while first < groups:
        last, work = first, 0
        while last < groups and work + (starts[last + 1] - starts[last]) ** 2 <= SLAB_PAIRS:
            work += (starts[last + 1] - starts[last]) ** 2
            last += 1
        if last == first:
            value[first] = long_group(function, &settings, &rows, &ideal[0], starts[first], starts[first + 1], turns)
            last += 1
        else:
            with nogil:
                for g in prange(first, last, num_threads=threads, schedule="dynamic"):
                    value[g] = one_group(function, &settings, &rows, &ideal[0], starts[g], starts[g + 1], turns)
        first = last
        PyErr_CheckSignals()
    return values, gradient, hessian


cdef Group part_of(const Group *rows, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """The group of rows start ... stop - 1."""
    cdef Group group
    group.n = stop - start
    group.score, group.grade, group.weight = rows.score + start, rows.grade + start, rows.weight + start
    group.grad, group.spare = rows.grad + start, rows.spare + 3 * start
    group.hess = NULL if rows.hess == NULL else rows.hess + start
    return group


cdef double one_group(group_loss function, const Settings *settings, const Group *rows, const double *ideal,
                      Py_ssize_t start, Py_ssize_t stop, int turns) noexcept nogil:
    cdef Group group = part_of(rows, start, stop)
    cdef double total = 0
    cdef int turn
    for turn in range(turns if group.n else 0):
        total += function(settings, &group, ideal + start, turn, 0, group.n)
    return total


cdef double long_group(group_loss function, const Settings *settings, const Group *rows, const double *ideal,
                       Py_ssize_t start, Py_ssize_t stop, int turns) except? -1:
    """`one_group`, some rows at a time (between them: Ctrl-C)."""
    cdef Group group = part_of(rows, start, stop)
    cdef Py_ssize_t first, last, step = max(<Py_ssize_t>1, <Py_ssize_t>SLAB_PAIRS // group.n)
    cdef double total = 0
    cdef int turn
    for turn in range(turns):
        first = 0
        while first < group.n:
            last = min(first + step, group.n)
            with nogil:
                total += function(settings, &group, ideal + start, turn, first, last)
            first = last
            PyErr_CheckSignals()
    return total


# ----------------------------------------------------------------------------------------- ratios of sums
cdef struct Overlap:
    double hits                     # sum w min(y, p)
    double false_alarms             # sum w max(p - y, 0)
    double misses                   # sum w max(y - p, 0)


cdef inline double probability(double other, double product) noexcept nogil:
    """p from 1 - p and p (1 - p), each with all its digits."""
    return product / other if other >= 0.5 else 1 - other


cdef inline double shortfall(double y, double p, double other) noexcept nogil:
    """y - p; for y >= 1/2 from 1 - p, so that nothing is lost where both are near 1."""
    return other - (1 - y) if y >= 0.5 else y - p


cdef void overlap_sums(const LogLoss *f, const double *y, const double *raw, const double *weight, Py_ssize_t n,
                       Overlap *sums) noexcept nogil:
    cdef Tile tile
    cdef Py_ssize_t first = 0, k, m
    cdef double p, short_, hits, alarms, misses
    prepare(&tile)
    sums.hits = sums.false_alarms = sums.misses = 0
    while first < n:
        m = min(<Py_ssize_t>BLOCK, n - first)
        f.function(tile.ones, raw + first, NULL, tile.grad, tile.hess, m, f.params, NULL)
        hits = alarms = misses = 0
        for k in range(m):
            p = probability(-tile.grad[k], tile.hess[k])
            short_ = shortfall(y[first + k], p, -tile.grad[k])
            hits = hits + weight[first + k] * (p if short_ > 0 else y[first + k])
            alarms = alarms + weight[first + k] * (0 if short_ > 0 else -short_)
            misses = misses + weight[first + k] * (short_ if short_ > 0 else 0)
        sums.hits += hits
        sums.false_alarms += alarms
        sums.misses += misses
        first += m


cdef void overlap_slopes(const LogLoss *f, const double *y, const double *raw, const double *weight, Py_ssize_t n,
                         const double *up, const double *down, int bend, double *grad, double *hess) noexcept nogil:
    """Derivatives by raw from those by p: up = (first, second) where p rises above y, down where it is below."""
    cdef Tile tile
    cdef Py_ssize_t first = 0, k, m, i
    cdef double p, other, short_, h, second, w, move
    prepare(&tile)
    while first < n:
        m = min(<Py_ssize_t>BLOCK, n - first)
        f.function(tile.ones, raw + first, NULL, tile.grad, tile.hess, m, f.params, NULL)
        for k in range(m):
            i = first + k
            other, w, move = -tile.grad[k], weight[i], tile.hess[k]
            p = probability(other, move)
            short_ = shortfall(y[i], p, other)
            h = down[0] if short_ > 0 else (up[0] if short_ < 0 else short_)
            second = down[1] if short_ > 0 else up[1]
            grad[i] = w * move * h
            if bend == AS_IT_IS:
                hess[i] = w * move * (w * move * second + (other - p) * h)
            elif bend == BOUND:
                hess[i] = w * move * (w * move * (second if second > 0 else 0) + fabs(h))
        first += m


def overlap(Kernel kernel not None, const double[::1] y, const double[::1] raw, const double[::1] weight, double alarm,
            double miss, double hit, double smooth, int bend, n_threads):
    """1 - overlap = (alarm FP + miss FN) / (hit TP + alarm FP + miss FN + smooth), and its derivatives.

    TP = sum w min(y, p), FP = sum w max(p - y, 0), FN = sum w max(y - p, 0).

    Parameters
    ----------
    kernel : Kernel
        Of the log loss.
    y, raw, weight : ndarray (n,), float64
        y in [0, 1].
    alarm, miss, hit, smooth : float
    bend : NO_HESSIAN, EXACT or UPPER_BOUND
    n_threads : int or None

    Returns
    -------
    value : float
    gradient, hessian : ndarray (n,)
    """
    cdef LogLoss f = _log_loss(kernel)
    cdef Py_ssize_t n = raw.shape[0], length = BLOCKS_PER_CHUNK * BLOCK, chunks = (n + length - 1) // length, c, many
    cdef int threads = resolve_threads(n_threads, chunks)
    gradient, hessian = np.zeros(n), np.zeros(n if bend else 0)
    if n == 0:
        return 0.0, gradient, hessian
    sums = np.zeros((chunks, 3))
    cdef double[:, ::1] part = sums
    cdef double[::1] grad = gradient, hess = hessian
    cdef double up[2]
    cdef double down[2]
    cdef double bottom, loss, slope
    with nogil:
        for c in prange(chunks, num_threads=threads, schedule="static"):
            many = min(length, n - c * length)
            overlap_sums(&f, &y[c * length], &raw[c * length], &weight[c * length], many, <Overlap *>&part[c, 0])
    hits, alarms, misses = in_order(sums)
    top = alarm * alarms + miss * misses
    bottom = hit * hits + top + smooth
    loss = top / bottom if top != 0 else 0.0        # nothing to find and nothing found: no loss
    if bottom == 0:
        return loss, gradient, hessian
    # With N the numerator and D the denominator, dL/dp = (N' - L D')/D and d2L/dp2 = -2 D' (dL/dp)/D, where
    # p > y: N' = D' = alarm;  p < y: N' = -miss, D' = hit - miss.
    slope = alarm * (hit * hits + smooth) / bottom / bottom
    up[0], up[1] = slope, -2 * alarm * slope / bottom
    slope = (-miss - loss * (hit - miss)) / bottom
    down[0], down[1] = slope, -2 * (hit - miss) * slope / bottom
    with nogil:
        for c in prange(chunks, num_threads=threads, schedule="static"):
            many = min(length, n - c * length)
            overlap_slopes(&f, &y[c * length], &raw[c * length], &weight[c * length], many, up, down, bend,
                           &grad[c * length], &hess[c * length] if bend else NULL)
    return loss, gradient, hessian


# ----------------------------------------------------------------------------------------- Lovász extension
def lovasz(const double[::1] raw, const double[::1] weight, const uint8_t[::1] positive, int bend, n_threads):
    """Lovász hinge: the convex closure of the Jaccard loss of the rows with an error, at the errors 1 - m.

    Parameters
    ----------
    raw, weight : ndarray (n,), float64
    positive : ndarray (n,), uint8
    bend : NO_HESSIAN, EXACT or UPPER_BOUND
    n_threads : int or None
        Checked; one thread sorts and sums.

    Returns
    -------
    value : float
    gradient, hessian : ndarray (n,)
    """
    cdef Py_ssize_t n = raw.shape[0], i, at
    resolve_threads(n_threads, 1)
    gradient, hessian = np.zeros(n), np.zeros(n if bend else 0)
    if n == 0:
        return 0.0, gradient, hessian
    errors = np.where(positive, 1 - np.asarray(raw), 1 + np.asarray(raw))
    cdef const double[::1] error = errors
    cdef const Py_ssize_t[::1] by_error = order(errors, True)
    cdef double[::1] grad = gradient, hess = hessian
    cdef double inside = np.sum(np.asarray(weight)[np.asarray(positive, bool)]), all_ = inside, step, value = 0, w
    cdef Py_ssize_t left = np.count_nonzero(positive)
    with nogil:
        for i in range(n):      # `inside` of the union `all_` are found; each row in turn becomes an error
            at = by_error[i]
            w = weight[at]
            if positive[at]:
                step = w / all_
                left -= 1
                inside = inside - w if left else 0
            else:
                step = inside / all_ * (w / (all_ + w)) if all_ > 0 else 1
                all_ += w
            if error[at] > 0 and step > 0:
                value += step * error[at]
                grad[at] = -step if positive[at] else step
                if bend == BOUND:
                    hess[at] = step
            elif error[at] != error[at]:
                value = error[at]
    return value, gradient, hessian
