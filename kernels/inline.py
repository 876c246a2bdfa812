"""How a function is compiled that only kernels call: not to machine code.

Numba makes a finished library of every function, optimised and in machine code, and then the same
again for each caller it is inlined into. A kernel of 70 small functions took 6 s to compile; with
the small ones left as raw material, to be optimised once within the kernel, 3 s.
"""

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _IRLibrary(JITCodeLibrary):  # type: ignore[misc]
    """A library to link into others."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class IROnlyCompiler(Compiler):  # type: ignore[misc]
    """Numba's compiler, up to LLVM's language."""

    def define_pipelines(self) -> Any:
        """The usual passes, the last one cut short."""
        self.state.flags.no_compile = True
        return super().define_pipelines()

    def compile_extra(self, func: Any) -> Any:
        """Compile a function into raw material."""
        state = self.state
        if state.targetctx.codegen()._library_class is JITCodeLibrary:
            state.library = _IRLibrary(state.targetctx.codegen(), func.__qualname__)
        made = super().compile_extra(func)
        nothing: list[Any] = []
        key = nothing.append  # some C function of its own: callers look the code up under it
        state.targetctx.insert_user_function(key, made.fndesc, [made.library])
        return made._replace(entry_point=key)


# Options of such functions; nobody calls them from Python or C, so no wrappers either.
IR_ONLY = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": IROnlyCompiler}
