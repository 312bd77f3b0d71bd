"""Build step: ``_math.pxd`` becomes ``include/fastloss_math.h``, the same functions for C.

The functions are inline and pure, in few forms: declarations, assignments, conditional expressions, a branch on the
dtype.  A cast ``<type>x`` binds like the left side of Python's ``**``, so with casts written ``type ** x`` their
statements are Python's, and :mod:`ast` reads them.  Each function is written twice, for double and, with an f at the
end of its name, for float.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

HEAD = """\
/* Elementary functions of fastloss for C: exp, expm1, log, log1p, log_cosh, sigmoid ... for double, and with an f at
   the end for float.  Rendered from fastloss/_kernels/_math.pxd; do not edit.

   Loops over them become vector code:

       cc -O3 -march=native -fno-math-errno -fno-trapping-math -ffp-contract=off -fPIC -shared \\
           -I$(python -c "import fastloss; print(fastloss.get_include())") losses.c -o losses.so

   Without -ffp-contract=off values may differ in the last place from those of fastloss's own losses. */
#ifndef FASTLOSS_MATH_H
#define FASTLOSS_MATH_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The block signature: for a loss of one score, and of K scores (tiles (n, K); y or label is NULL). */
typedef ptrdiff_t (*fastloss_kernel_f64)(const double *y, const double *raw, double *loss, double *grad, double *hess,
                                         ptrdiff_t n, const double *params, void *data);
typedef ptrdiff_t (*fastloss_kernel_f32)(const float *y, const float *raw, float *loss, float *grad, float *hess,
                                         ptrdiff_t n, const double *params, void *data);
typedef ptrdiff_t (*fastloss_scores_f64)(const double *y, const ptrdiff_t *label, const double *raw, double *loss,
                                         double *grad, double *hess, ptrdiff_t n, ptrdiff_t K, const double *params,
                                         void *data);
typedef ptrdiff_t (*fastloss_scores_f32)(const float *y, const ptrdiff_t *label, const float *raw, float *loss,
                                         float *grad, float *hess, ptrdiff_t n, ptrdiff_t K, const double *params,
                                         void *data);

#if defined(__GNUC__) || defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define FASTLOSS_INLINE static inline __attribute__((always_inline))
#else
#define FASTLOSS_INLINE static inline
#endif
"""
TAIL = """\
#if defined(__GNUC__) || defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
"""
OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.LShift: "<<", ast.RShift: ">>",
             ast.BitAnd: "&", ast.BitOr: "|"}  # fmt: skip
COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
TYPES = {"float": ("float", "f"), "double": ("double", "")}
DECLARED = re.compile(r" +\w+ (\w+);$")
FUNCTION = re.compile(r"^cdef inline (\w+) (\w+)\(([^)]*)\) noexcept nogil:\n((?:[ \t]+.*\n|\n)+)", re.M)


def header(path: Path) -> str:
    """Text of the header for the ``.pxd`` at `path`."""
    text = path.read_text(encoding="utf-8")
    verbatim = re.search(r'cdef extern from \* nogil:\n    """\n(.*?)    """', text, re.S)
    assert verbatim is not None
    lines = [HEAD, re.sub(r"(?m)^    ", "", verbatim[1])]
    renamed = dict(re.findall(r'(\w+) "(\w+)"', text[verbatim.end() :]))
    functions = FUNCTION.findall(text)
    names = {name for _, name, _, _ in functions}
    for result, name, arguments, body in functions:
        for real, suffix in TYPES.values():
            lines.append(Function(real, suffix, names, renamed).render(result, name, arguments, body))
    return "\n".join([*lines, TAIL])


class Function:
    """One function for one dtype."""

    def __init__(self, real: str, suffix: str, names: set[str], renamed: dict[str, str]) -> None:
        self.real, self.suffix, self.names, self.renamed = real, suffix, names, renamed

    def render(self, result: str, name: str, arguments: str, body: str) -> str:
        """The C text."""
        tree = ast.parse(_as_python(body))
        given = ", ".join(self.declared(argument) for argument in arguments.split(","))
        head = f"FASTLOSS_INLINE {self.type(result)} {self.function(name)}({given}) {{"
        lines = self.statements(tree.body, "    ")
        # the other dtype's branch may have been the only one to use a variable
        used = "\n".join(line for line in lines if not DECLARED.match(line))
        lines = [line for line in lines if (m := DECLARED.match(line)) is None or re.search(rf"\b{m[1]}\b", used)]
        return "\n".join([head, *lines, "}", ""])

    def type(self, name: str) -> str:
        """A Cython type in C."""
        return {"real": self.real, "bint": "int"}.get(name, name)

    def declared(self, argument: str) -> str:
        """One argument: "real x", "real *main"."""
        name, _, rest = argument.strip().partition(" ")
        return f"{self.type(name)} {rest}"

    def function(self, name: str) -> str:
        """The C name."""
        return f"fastloss_{name.lstrip('_')}{self.suffix}" if name in self.names else self.renamed.get(name, name)

    def statements(self, body: list[ast.stmt], indent: str) -> list[str]:
        """Lines of a block."""
        lines: list[str] = []
        for node in body:
            match node:
                case ast.Expr(value=ast.Constant(value=str())):
                    pass  # the docstring is for readers of the source
                case ast.AnnAssign(target=ast.Name(id=names), annotation=ast.Constant(value=str(kind)), value=value):
                    given = "" if value is None else f" = {self.expression(value)}"
                    lines.append(f"{indent}{self.type(kind)} {names}{given};")
                case ast.If(test=ast.Compare(left=ast.Name(id="real"), ops=[ast.Is()]), body=first, orelse=second):
                    lines += self.statements(first if self.real == "float" else second, indent)
                case ast.If(test=test, body=first, orelse=[]):
                    lines += [f"{indent}if ({self.expression(test)}) {{"]
                    lines += [*self.statements(first, indent + "    "), f"{indent}}}"]
                case ast.Assign(targets=[target], value=value):
                    lines.append(f"{indent}{self.expression(target)} = {self.expression(value)};")
                case ast.Return(value=value) if value is not None:
                    lines.append(f"{indent}return {self.expression(value)};")
                case ast.Expr(value=ast.Call() as call):
                    lines.append(f"{indent}{self.expression(call)};")
                case _:
                    raise ValueError(f"_math.pxd: cannot be written in C: {ast.unparse(node)}")
        return lines

    def expression(self, node: ast.expr) -> str:
        """C text of an expression, all of it in parentheses."""
        inner = self.expression
        match node:
            case ast.Constant(value=value):
                return repr(value)
            case ast.Name(id=name):
                return self.renamed.get(name, name)
            case ast.BinOp(left=ast.Name(id="address_of"), op=ast.Pow(), right=operand):
                return f"&{inner(operand)}"
            case ast.BinOp(left=ast.Name(id=name), op=ast.Pow(), right=operand):
                return f"({self.type(name)})({inner(operand)})"
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return f"({inner(left)} {OPERATORS[type(op)]} {inner(right)})"
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return f"(-{inner(operand)})"
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
                return f"({inner(left)} {COMPARISONS[type(op)]} {inner(right)})"
            case ast.IfExp(test=ast.Compare(left=ast.Name(id="real"), ops=[ast.Is()]), body=first, orelse=second):
                return inner(first if self.real == "float" else second)
            case ast.IfExp(test=test, body=first, orelse=second):
                return f"({inner(test)} ? {inner(first)} : {inner(second)})"
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=0)):
                return f"{name}[0]"
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return f"{self.function(name)}({', '.join(map(inner, arguments))})"
        raise ValueError(f"_math.pxd: cannot be written in C: {ast.unparse(node)}")


def _as_python(body: str) -> str:
    """A function's body with declarations as annotations, casts and addresses as powers."""
    text = re.sub(r"<(\w+)>", r"\1 ** ", body)
    text = re.sub(r"([(,] *)&(\w)", r"\1address_of ** \2", text)
    lines = []
    for line in text.splitlines():
        declaration = re.match(r"( +)cdef (\w+) ([^=]+?)( = .*)?$", line)
        if declaration is None:
            lines.append(line)
            continue
        indent, kind, names, value = declaration.groups()
        lines += [f'{indent}{name.strip()}: "{kind}"{value or ""}' for name in names.split(",")]
    lines = [line for line in lines if line.strip()]
    first = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[first:] for line in lines) + "\n"
