"""Build: render the kernels, compile them once per instruction set, probe OpenMP.  Metadata is in pyproject.toml."""

import os
import platform
import sys
import tempfile
import warnings
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "fastloss" / "_kernels"))
from _header import header  # noqa: E402
from _render import read_blocks, render  # noqa: E402

FAMILIES = ("regression", "counts", "binary", "multiclass")
FORMULAS = [ROOT / "fastloss" / "losses" / f"{family}.py" for family in FAMILIES]
RENDERED = Path("build") / "rendered"
MATH = ROOT / "fastloss" / "_kernels" / "_math.pxd"
HEADER = ROOT / "fastloss" / "include" / "fastloss_math.h"
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")

# What makes loops over the kernels' arithmetic vectorise without changing it: errno and floating-point traps are side
# effects nobody reads; contraction stays off because fma is written out (see _math.pxd).
ARITHMETIC = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
ISA_FLAGS = {"baseline": []}
if IS_X86:
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma", "-mtune=haswell"]
    ISA_FLAGS["avx512"] = [
        *("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx512cd", "-mavx2", "-mfma"),
        *("-mtune=skylake-avx512", "-mprefer-vector-width=512"),
    ]
ISA_MODULE = """\
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
from libc.math cimport INFINITY

from fastloss._kernels._math cimport *
from fastloss._kernels.abi cimport ABI_VERSION, LossKernels, ScoreKernels, Table

include "fastloss/_kernels/rows.pxi"
include "fastloss/_kernels/multiclass.pxi"
include "kernels.pxi"
include "fastloss/_kernels/table.pxi"
"""
# The module's own start-up code is compiled with its flags too: on a CPU without them, merely importing it (as
# documentation tools do) would be an illegal instruction.  This stands in front of it; Cython's own entry is renamed.
GUARD = """\
#include <Python.h>
PyObject *fastloss_entry(void);
#undef PyInit_isa_@ISA@
PyMODINIT_FUNC PyInit_isa_@ISA@(void) {
    if (!(@SUPPORTED@)) {
        PyErr_SetString(PyExc_ImportError, "this CPU does not run the instruction set @ISA@");
        return NULL;
    }
    return fastloss_entry();
}
"""


def render_kernels() -> None:
    """Write the rendered sources, and the header for C."""
    RENDERED.mkdir(parents=True, exist_ok=True)
    HEADER.parent.mkdir(exist_ok=True)
    write(HEADER, header(MATH))
    texts = {"kernels.pxi": render(read_blocks(FORMULAS))}
    for isa, flags in ISA_FLAGS.items():
        features = [flag.removeprefix("-m") for flag in flags if "=" not in flag]
        supported = " && ".join(f'__builtin_cpu_supports("{feature}")' for feature in features) or "1"
        texts[f"isa_{isa}.pyx"] = ISA_MODULE
        texts[f"guard_{isa}.c"] = GUARD.replace("@ISA@", isa).replace("@SUPPORTED@", supported)
    for name, text in texts.items():
        write(RENDERED / name, text)


def write(path: Path, text: str) -> None:
    """Write a file, unless that would only make it newer."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def rename_entry(isa: str) -> list[tuple[str, str]]:
    """Macros under which Cython's start-up function gets the name the guard calls."""
    return [(f"PyInit_isa_{isa}", "fastloss_entry")]


def extensions() -> list[Extension]:
    """Pointer-only modules per instruction set, and the modules that face Python (always for the baseline CPU)."""
    render_kernels()
    kernels = [
        Extension(
            f"fastloss._kernels.isa_{isa}",
            [str(RENDERED / f"isa_{isa}.pyx"), str(RENDERED / f"guard_{isa}.c")],
            include_dirs=["fastloss/_kernels"],
            depends=["fastloss/_kernels/simd.h", "fastloss/_kernels/simd_body.h"],
            extra_compile_args=[*ARITHMETIC, *ISA_FLAGS[isa]],
            # Kernels vectorise only if every small function is inlined, however large the loop gets.
            define_macros=[("CYTHON_INLINE", "inline __attribute__((__always_inline__))"), *rename_entry(isa)],
        )
        for isa in ISA_FLAGS
    ]
    threaded = [
        Extension(
            f"fastloss._kernels.{name}",
            [f"fastloss/_kernels/{name}.pyx"],
            include_dirs=[numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            extra_compile_args=[*ARITHMETIC],
        )
        for name in ("batch", "dispatch", "linear", "sgd")
        if (ROOT / "fastloss" / "_kernels" / f"{name}.pyx").exists()
    ]
    return kernels + threaded


class BuildExt(build_ext):
    """build_ext that compiles in parallel and links OpenMP where the compiler has it."""

    OPENMP = "-fopenmp"
    PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self) -> None:
        if self.has_openmp():
            for extension in self.extensions:
                if not extension.name.rpartition(".")[2].startswith("isa_"):
                    extension.extra_compile_args.append(self.OPENMP)
                    extension.extra_link_args.append(self.OPENMP)
        elif os.environ.get("FASTLOSS_REQUIRE_OPENMP") == "1":
            raise SystemExit("FASTLOSS_REQUIRE_OPENMP=1, but this compiler cannot build and link an OpenMP program")
        else:
            warnings.warn("the compiler has no OpenMP: fastloss is built to run on one thread", stacklevel=1)
        super().build_extensions()

    def has_openmp(self) -> bool:
        """Whether a small OpenMP program compiles and links."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text(self.PROBE, encoding="utf-8")
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=[self.OPENMP])
                self.compiler.link_executable(objects, str(Path(folder) / "probe"), extra_postargs=[self.OPENMP])
            except Exception:  # whatever the compiler's wrapper raises, the answer is no
                return False
        return True


setup(
    ext_modules=cythonize(extensions(), include_path=[".", str(RENDERED)], nthreads=0),
    cmdclass={"build_ext": BuildExt},
)
