"""Build step: the loss classes' formulas (Python) become typed kernels (Cython).

A loss is written once, as a class in ``fastloss/losses/``.  Five of its static methods are formulas in a small subset
of Python; this module reads them with :mod:`ast` (nothing is imported or run) and writes, for each loss, loops over a
block with the one block signature of ``abi.pxd``, generic in float32/float64.  ``setup.py`` compiles the result once
for each instruction set.

The subset: assignments to plain names, one ``return``; ``+ - * /``, comparisons, ``and``/``or``/``not``, conditional
expressions, numbers, ``INF``, and the functions of :data:`FUNCTIONS`.  Every name has the working dtype.  A conditional
expression selects between two values already computed, so that loops stay free of branches.  ``min(a, b)`` and
``max(a, b)`` are ``a`` where a comparison with NaN decides, as in Python.

``name = stage(expression)`` computes that value in a loop of its own, a short stretch of samples ahead of the loop
that uses it.  A long chain of dependent operations leaves a core waiting: its window holds only two or three samples
at once.  Two loops with half the chain each overlap twice as many (log_loss: 130 -> 240 M samples/s in float64).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

FUNCTIONS = {
    "abs": "fabs",
    "min": "fmin",
    "max": "fmax",
    **{
        name: name
        for name in (
            "atanh_rest_unit",
            "copysign",
            "exp",
            "exp_sum",
            "expm1",
            "expm1_sum",
            "fma",
            "log",
            "log1p",
            "log1p_unit",
            "log1p_unit_rest",
            "log_cosh",
            "log_sum",
            "log_sum_rest",
            "power",
            "product_error",
            "sign",
            "sqrt",
            "unless_nan",
        )
    },
}
BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
COMPARE = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
FORMULAS = ("sample", "fisher", "domain", "constant", "proximal_slope")
# What `sample` describes: a score and its target; a function of -log p_y of a softmax; a function of the margin.
# Losses over K scores of no such form name a function of ``multiclass.pxi`` by their own name ("panel").
FAMILIES = ("pointwise", "true_class", "margin", "panel")


class FormulaError(Exception):
    """A formula uses something the subset does not have."""


@dataclass
class Formula:
    """One static method of a loss: its arguments, the statements before `return`, the returned expressions."""

    arguments: list[str]
    types: dict[str, str]
    statements: list[tuple[str, str]]
    stages: list[str]
    results: list[str]


@dataclass
class Block:
    """One loss class, as far as the kernels need it."""

    name: str
    family: str
    parameters: list[str]
    formulas: dict[str, Formula]


# ------------------------------------------------------------------------------------------------- reading
def read_blocks(paths: list[Path]) -> list[Block]:
    """The losses defined in the files, in their order."""
    classes: dict[str, ast.ClassDef] = {}
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        classes.update({node.name: node for node in tree.body if isinstance(node, ast.ClassDef)})
    return [_block(node, classes) for node in classes.values() if _loss_name(node)]


def _text_attribute(node: ast.ClassDef, attribute: str) -> str | None:
    for statement in node.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)) if name == attribute:
                return str(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=value)) if name == attribute:
                return str(value)
    return None


def _loss_name(node: ast.ClassDef) -> str | None:
    return _text_attribute(node, "name")


def _lineage(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """The class and those of its bases that stand in the same files, nearest first."""
    bases = [classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
    return [node, *(ancestor for base in bases for ancestor in _lineage(base, classes))]


def _block(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Block:
    lineage = _lineage(node, classes)
    formulas = {}
    for kind in FORMULAS:
        for owner in lineage:
            methods = [m for m in owner.body if isinstance(m, ast.FunctionDef) and m.name == kind]
            if methods:
                formulas[kind] = _formula(methods[0], where=f"{owner.name}.{kind}")
                break
    parameters = [
        statement.target.id
        for owner in reversed(lineage)
        for statement in owner.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and isinstance(statement.value, ast.Call)
        and getattr(statement.value.func, "id", "") == "Parameter"
    ]
    name = _loss_name(node)
    assert name is not None
    family = next(filter(None, (_text_attribute(owner, "family") for owner in lineage)), "pointwise")
    if family not in FAMILIES:
        raise FormulaError(f"{node.name}: family must be one of {', '.join(FAMILIES)}, got {family!r}")
    if "sample" not in formulas and family != "panel":
        raise FormulaError(f"{node.name}: a loss needs a static method `sample`")
    if family != "pointwise" and (set(formulas) > {"sample"} or (formulas and formulas["sample"].stages)):
        raise FormulaError(f"{node.name}: a loss over K scores has `sample` alone, without stages")
    return Block(name, family, parameters, formulas)


def _formula(method: ast.FunctionDef, where: str) -> Formula:
    statements: list[tuple[str, str]] = []
    types: dict[str, str] = {}
    stages: list[str] = []
    for statement in method.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # docstring
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name, value = statement.targets[0].id, statement.value
            if name in stages:
                raise FormulaError(
                    f"{where}, line {statement.lineno}: `{name}` is a stage and cannot be assigned again"
                )
            if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "stage":
                stages.append(name)
                value = value.args[0]
            statements.append((name, expression(value, where)))
            types[name] = "bint" if _is_condition(value) else "real"
        elif isinstance(statement, ast.Return) and statement.value is not None:
            value = statement.value
            parts = value.elts if isinstance(value, ast.Tuple) else [value]
            results = [expression(part, where) for part in parts]
            if len(results) != (3 if method.name == "sample" else 1):
                raise FormulaError(
                    f"{where}, line {statement.lineno}: `sample` returns loss, grad, hess, the others one value"
                )
            return Formula([a.arg for a in method.args.args], types, statements, stages, results)
        else:
            raise FormulaError(f"{where}, line {statement.lineno}: only `name = expression` and `return`")
    raise FormulaError(f"{where}: no `return`")


def _is_condition(node: ast.expr) -> bool:
    return isinstance(node, ast.Compare | ast.BoolOp) or (
        isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
    )


def expression(node: ast.expr, where: str) -> str:
    """Cython text of one expression; every constant is cast to the working dtype."""

    def inner(child: ast.expr) -> str:
        return expression(child, where)

    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return f"<real>{number!r}"
        case ast.Name(id="INF"):
            return "<real>INFINITY"
        case ast.Name(id=name):
            return f"{name}_"
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return f"(-{inner(operand)})"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return f"(not {inner(operand)})"
        case ast.BinOp(op=op, left=left, right=right) if type(op) in BINARY:
            return f"({inner(left)} {BINARY[type(op)]} {inner(right)})"
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARE:
            return f"({inner(left)} {COMPARE[type(op)]} {inner(right)})"
        case ast.Compare(left=left, ops=[first, *ops], comparators=[middle, *rest]):
            head = ast.Compare(left=left, ops=[first], comparators=[middle])
            return f"({inner(head)} & {inner(ast.Compare(left=middle, ops=ops, comparators=rest))})"
        case ast.BoolOp(op=op, values=values):
            # & and | of comparisons: evaluated, not branched on
            return "(" + (" & " if isinstance(op, ast.And) else " | ").join(map(inner, values)) + ")"
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return f"select({inner(test)}, {inner(body)}, {inner(orelse)})"
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            return f"{FUNCTIONS[name]}({', '.join(map(inner, args))})"
    raise FormulaError(
        f"{where}, line {node.lineno}: `{ast.unparse(node)}` is not in the subset kernels are written in"
    )


# ------------------------------------------------------------------------------------------------- writing
SIGNATURE = (
    "const real *y, const real *raw, real *loss, real *grad, real *hess,\n"
    "        Py_ssize_t n, const double *params, void *data"
)
# Which outputs a loop writes.  A wanted hessian brings the gradient along, as boosting wants both.
LOOPS = (
    ("hess != NULL and grad != NULL", ("grad", "hess")),
    ("hess != NULL and grad == NULL", ("hess",)),
    ("loss != NULL and grad != NULL and hess == NULL", ("loss", "grad")),
    ("loss != NULL and (grad == NULL or hess != NULL)", ("loss",)),
    ("loss == NULL and grad != NULL and hess == NULL", ("grad",)),
)
OUTPUTS = ("loss", "grad", "hess")
STRETCH = 256  # samples; a stage's values stay in L1 beside the block


def render(blocks: list[Block]) -> str:
    """Text of the kernels of all losses, to be put before ``table.pxi``."""
    parts = ["# Rendered by fastloss/_kernels/_render.py from the classes in fastloss/losses/. Do not edit.\n"]
    pointwise = [block for block in blocks if block.family == "pointwise"]
    scores = [block for block in blocks if block.family != "pointwise"]
    envelopes: list[Block] = []
    for block in blocks:
        parts.append(f"\n# {'-' * 60} {block.name}")
        parts += _point_functions(block)
        if block.family == "pointwise":
            parts.append(_kernel(block))
            if "fisher" in block.formulas:
                parts.append(_fisher_kernel(block))
            if "proximal_slope" in block.formulas:
                envelope = _envelope(block)
                envelopes.append(envelope)
                parts += [_envelope_function(block), _kernel(envelope)]
        else:
            parts.append(_score_kernels(block))
    functions = [Block("softmax", "panel", ["logarithm"], {})]  # not losses, but of the same form
    parts += [_score_kernels(block) for block in functions]
    parts.append(_table([*pointwise, *envelopes]))
    parts.append(_score_table([*scores, *functions]))
    return "\n".join(parts)


def _locals(formula: Formula, given: list[str] | None = None) -> list[str]:
    """Declarations and assignments; names in `given` are arguments instead."""
    known = {*formula.arguments, *(given or ())}
    assigned = [(name, text) for name, text in formula.statements if name not in (given or ())]
    names = dict.fromkeys(name for name, _ in assigned if name not in known)
    return [f"    cdef {formula.types[name]} {name}_" for name in names] + [f"    {n}_ = {t}" for n, t in assigned]


def _arguments(formula: Formula) -> str:
    return ", ".join(f"real {name}_" for name in formula.arguments)


def _point_functions(block: Block) -> list[str]:
    """One inline function per formula: a single sample."""
    lines = []
    for kind, formula in block.formulas.items():
        if kind == "sample":
            outputs = ", ".join(f"real *{out}" for out in OUTPUTS)
            given = "".join(f", real {name}_" for name in formula.stages)
            lines.append(
                f"cdef inline void {block.name}_sample({_arguments(formula)}{given}, {outputs}) noexcept nogil:"
            )
            lines += _locals(formula, given=formula.stages)
            lines += [f"    {out}[0] = {text}" for out, text in zip(OUTPUTS, formula.results, strict=True)]
            lines += [line for k in range(len(formula.stages)) for line in ["", *_stage_function(block, formula, k)]]
        else:
            result = "bint" if kind == "domain" else "real"
            lines.append(f"cdef inline {result} {block.name}_{kind}({_arguments(formula)}) noexcept nogil:")
            lines += _locals(formula)
            lines.append(f"    return {formula.results[0]}")
        lines.append("")
    return lines


def _stage_function(block: Block, formula: Formula, k: int) -> list[str]:
    """The value of stage k: all that stands before it; what it does not need, the compiler drops."""
    earlier, name = formula.stages[:k], formula.stages[k]
    last = [assigned for assigned, _ in formula.statements].index(name)
    head = Formula(formula.arguments, formula.types, formula.statements[: last + 1], [], [])
    given = "".join(f", real {stage}_" for stage in earlier)
    return [
        f"cdef inline real {block.name}_stage_{name}({_arguments(formula)}{given}) noexcept nogil:",
        *_locals(head, given=earlier),
        f"    return {name}_",
    ]


def _call(block: Block, kind: str, samples: dict[str, str]) -> str:
    formula = block.formulas[kind]
    return ", ".join(samples.get(name, f"{name}_") for name in formula.arguments)


def _prologue(block: Block) -> list[str]:
    lines = ["    cdef Py_ssize_t i"]
    lines += [f"    cdef real {name}_ = <real>params[{k}]" for k, name in enumerate(block.parameters)]
    return lines


def _kernel(block: Block) -> str:
    at = {"y": "y[i]", "raw": "raw[i]"}
    lines = [f"cdef Py_ssize_t {block.name}_kernel({SIGNATURE}) noexcept nogil:", *_prologue(block)]
    lines.append("    cdef real loss_i, grad_i, hess_i")
    if stages := block.formulas["sample"].stages:
        lines.append("    cdef Py_ssize_t at, size")
        lines += [f"    cdef real {name}_stage[{STRETCH}]" for name in stages]
    if "domain" in block.formulas:
        test = f"{block.name}_domain({_call(block, 'domain', at)})"
        lines += [
            "    cdef int refused = 0",
            "    for i in range(n):",
            f"        refused |= 1 - {test}",
            "    if refused:",
            "        for i in range(n):",
            f"            if not {test}:",
            "                return i",
        ]
    for condition, wanted in LOOPS:
        lines += [f"    if {condition}:", *_loop(block, wanted)]
    if "constant" in block.formulas:
        lines += [
            "    if loss != NULL and constants_ != 0:",
            "        for i in range(n):",
            f"            loss_i = {block.name}_constant({_call(block, 'constant', at)})",
            # A deviance is not negative: where its two parts overflow, it does.
            "            loss[i] = select((loss_i == <real>INFINITY) & (loss[i] == loss[i]), loss_i, loss[i] + loss_i)",
        ]
    return "\n".join([*lines, "    return n", ""])


def _loop(block: Block, wanted: tuple[str, ...]) -> list[str]:
    """The loop that writes some of the outputs; with stages, loops over stretches of STRETCH samples."""
    stages = block.formulas["sample"].stages
    index = "at + i" if stages else "i"
    at = {"y": f"y[{index}]", "raw": f"raw[{index}]"}
    targets = ", ".join(f"&{out}[{index}]" if out in wanted else f"&{out}_i" for out in OUTPUTS)
    arguments = _call(block, "sample", at)
    held = [f"{name}_stage[i]" for name in stages]
    sample = f"{block.name}_sample({', '.join([arguments, *held])}, {targets})"
    if not stages:
        return ["        for i in range(n):", f"            {sample}"]
    lines = ["        at = 0", "        while at < n:", f"            size = min(n - at, <Py_ssize_t>{STRETCH})"]
    for k, name in enumerate(stages):
        value = f"{block.name}_stage_{name}({', '.join([arguments, *held[:k]])})"
        lines += ["            for i in range(size):", f"                {held[k]} = {value}"]
    return [*lines, "            for i in range(size):", f"                {sample}", "            at += size"]


def _envelope(block: Block) -> Block:
    """A loss's Moreau envelope min over p of loss(p) + (raw - p)**2 / (2 step), as a loss with one more parameter."""
    sample = block.formulas["sample"]
    if sample.stages:
        raise FormulaError(f"{block.name}: a loss with a proximal_slope has no stages")
    formulas = {"sample": Formula([*sample.arguments, "step"], {}, [], [], [])}
    formulas |= {kind: block.formulas[kind] for kind in ("domain",) if kind in block.formulas}
    return Block(f"{block.name}_moreau", "pointwise", [*block.parameters, "step"], formulas)


def _envelope_function(block: Block) -> str:
    """The envelope of a single sample: its slope is the loss's at the proximal point, raw - step * slope."""
    name, sample = block.name, block.formulas["sample"]
    moved = _call(block, "sample", {"raw": "raw_ - step_ * slope"})
    lines = [
        f"cdef inline void {name}_moreau_sample({_arguments(sample)}, real step_, real *loss, real *grad, real *hess)"
        " noexcept nogil:",
        f"    cdef real slope = {name}_proximal_slope({_call(block, 'proximal_slope', {})})",
        "    cdef real value, grad_there, hess_there",
        f"    {name}_sample({moved}, &value, &grad_there, &hess_there)",
        "    loss[0] = value + <real>0.5 * step_ * slope * slope",
        "    grad[0] = slope",
        "    # at a kink the slope lies between the two of the loss, and the envelope is a parabola",
        "    hess[0] = select(fabs(slope - grad_there) > <real>1e-3 * fabs(slope), 1 / step_,",
        "                     hess_there / (1 + step_ * hess_there))",
    ]
    if "domain" in block.formulas:
        lines += [
            "",
            f"cdef inline bint {name}_moreau_domain({_arguments(block.formulas['domain'])}) noexcept nogil:",
            f"    return {name}_domain({_call(block, 'domain', {})})",
        ]
    return "\n".join([*lines, ""])


def _fisher_kernel(block: Block) -> str:
    at = {"y": "y[i]", "raw": "raw[i]"}
    lines = [f"cdef Py_ssize_t {block.name}_fisher_kernel({SIGNATURE}) noexcept nogil:", *_prologue(block)]
    lines += ["    for i in range(n):", f"        hess[i] = {block.name}_fisher({_call(block, 'fisher', at)})"]
    return "\n".join([*lines, "    return n", ""])


# ------------------------------------------------------------------------------------------------- K scores
PANEL_ARGUMENTS = (
    "const Panel *p, const real *y, const Py_ssize_t *label, const real *z, real *loss, real *grad,\n"
    "        real *hess, bint product, const double *params"
)
SCORE_SIGNATURE = (
    "const real *y, const Py_ssize_t *label, const real *raw, real *loss, real *grad,\n"
    "        real *hess, Py_ssize_t n, Py_ssize_t K, const double *params, void *data"
)
# What stands before and after the loop over the samples: the columns it reads, and what becomes of loss, grad, hess.
SCORE_FORMS = {
    "true_class": (
        ("top", "d", "own", "others", "below"),
        (
            "    softmax_open(p, z, grad, top)",
            "    if hess != NULL and not product:",
            "        find_peak(p, z, top, peaks)",
            "        peak = peaks",
            "    softmax_sums(p, label, peak, grad, own, others, exact_others, below)",
            "    for r in range(p.samples):",
            "        d[r] = below_top(z[r + label[r] * p.step], top[r])",
        ),
        "    true_class_close(p, label, peak, grad, hess, product, own, others, below, slope, bend)",
    ),
    "margin": (
        ("margin", "best", "ties"),
        ("    margin_open(p, label, z, grad, margin, best, ties)",),
        "    margin_close(p, label, grad, hess, product, best, ties, slope, bend)",
    ),
}


def _score_kernels(block: Block) -> str:
    """The kernels of a loss over K scores: for tiles (n, K) and (K, n), with hessian diagonals or products."""
    name = block.name
    lines = _panel_function(block) if block.family != "panel" else []
    for product in (False, True):
        suffix = "_product" if product else ""
        lines += [
            f"cdef Py_ssize_t {name}_lanes{suffix}({SCORE_SIGNATURE}) noexcept nogil:",
            "    cdef Panel p = panel_of_lanes(n, K)",
            f"    {name}_panel(&p, y, label, raw, loss, grad, hess, {product}, params)",
            "    return n",
            "",
            f"cdef Py_ssize_t {name}_rows{suffix}({SCORE_SIGNATURE}) noexcept nogil:",
            "    cdef Panel p = panel_of_row(K)",
            "    cdef Py_ssize_t i",
            "    for i in range(n):",
            f"        {name}_panel(",
            "            &p, y + (0 if y == NULL else i * K), label + (0 if label == NULL else i), raw + i * K,",
            "            loss + (0 if loss == NULL else i), grad + i * K, hess + (0 if hess == NULL else i * K),",
            f"            {product}, params)",
            "    return n",
            "",
        ]
    return "\n".join(lines)


def _panel_function(block: Block) -> list[str]:
    """Around the loss's formula of one sample, what its family does over the classes.

    The formula is evaluated in float64 also for float32 scores: once per sample, not per score, it costs little, and
    powers and products of exponentials would eat the budget of a few ulp.
    """
    columns, before, after = SCORE_FORMS[block.family]
    known = {name: f"<double>{name}[r]" for name in columns}
    known |= {"own": "exp(<double>d[r])", "others": "exact_others[r]"}
    sample = f"{block.name}_sample({_call(block, 'sample', known)}, &value, &steep[r], &bent[r])"
    return [
        f"cdef void {block.name}_panel({PANEL_ARGUMENTS}) noexcept nogil:",
        *(f"    cdef real {column}[WIDE]" for column in (*columns, "slope", "bend")),
        "    cdef double steep[WIDE]",
        "    cdef double bent[WIDE]",
        "    cdef double exact_others[WIDE]",
        "    cdef Py_ssize_t peaks[WIDE]",
        "    cdef const Py_ssize_t *peak = NULL",
        "    cdef double value",
        "    cdef Py_ssize_t r",
        *(f"    cdef double {name}_ = params[{k}]" for k, name in enumerate(block.parameters)),
        *before,
        "    for r in range(p.samples):",
        f"        {sample}",
        "        slope[r], bend[r] = <real>steep[r], <real>bent[r]",
        "        if loss != NULL:",
        "            loss[r] = <real>value",
        after,
        "",
    ]


def _table(blocks: list[Block]) -> str:
    lines = ["", f"cdef LossKernels losses[{len(blocks)}]"]
    for k, block in enumerate(blocks):
        lines.append(f'losses[{k}].name = b"{block.name}"')
        for bits, ctype in ((32, "float"), (64, "double")):
            lines.append(f"losses[{k}].f{bits} = {block.name}_kernel[{ctype}]")
            fisher = f"{block.name}_fisher_kernel[{ctype}]" if "fisher" in block.formulas else "NULL"
            lines.append(f"losses[{k}].fisher_f{bits} = {fisher}")
    return "\n".join([*lines, f"N_LOSSES = {len(blocks)}", ""])


def _score_table(blocks: list[Block]) -> str:
    lines = ["", f"cdef ScoreKernels scores[{len(blocks)}]"]
    for k, block in enumerate(blocks):
        lines.append(f'scores[{k}].name = b"{block.name}"')
        for bits, ctype in ((32, "float"), (64, "double")):
            for layout in ("rows", "lanes"):
                for suffix in ("", "_product"):
                    function = f"{block.name}_{layout}{suffix}[{ctype}]"
                    lines.append(f"scores[{k}].{layout}{suffix}_f{bits} = {function}")
    return "\n".join([*lines, f"N_SCORES = {len(blocks)}", ""])
