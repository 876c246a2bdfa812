"""Compile helper functions to LLVM IR only; each kernel inlines and optimises them once.

Numba compiles every function to machine code, and again within each caller it is inlined into. A
kernel of 70 small functions took 6 s to compile; with the small ones left as IR, to be optimised
once within the kernel, 3 s.
"""

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _IRLibrary(JITCodeLibrary):  # type: ignore[misc]
    """A library of LLVM IR that is linked into others."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class IROnlyCompiler(Compiler):  # type: ignore[misc]
    """Numba's compiler, up to LLVM IR."""

    def define_pipelines(self) -> Any:
        """The usual passes, without code generation at the end."""
        self.state.flags.no_compile = True
        return super().define_pipelines()

    def compile_extra(self, func: Any) -> Any:
        """Compile a function to LLVM IR."""
        state = self.state
        if state.targetctx.codegen()._library_class is JITCodeLibrary:
            state.library = _IRLibrary(state.targetctx.codegen(), func.__qualname__)
        made = super().compile_extra(func)
        nothing: list[Any] = []
        key = nothing.append  # a unique C function: the key under which callers find the code
        state.targetctx.insert_user_function(key, made.fndesc, [made.library])
        return made._replace(entry_point=key)


# Options of such functions. They are not called from Python or C and need no wrappers.
IR_ONLY = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": IROnlyCompiler}
