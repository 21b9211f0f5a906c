"""The `nft` program for tests: the one on PATH, or one that stands on the same library.

A host may have libnftables without the program; what this prints is then the library's own output.
"""

from __future__ import annotations

import ctypes
import shutil
import sys
from pathlib import Path
from typing import Final

LIBRARY: Final = "libnftables.so.1"
_JSON: Final = 1 << 4

_PROGRAM: Final = """\
#!{python}
import runpy, sys
sys.argv[0] = {module!r}
runpy.run_path({module!r}, run_name="__main__")
"""


def problem() -> str:
    """Returns why there is no nft here; empty if there is one."""
    if shutil.which("nft"):
        return ""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return f"neither the program nft nor {LIBRARY} is installed"
    return ""


def program_in(directory: Path) -> None:
    """Puts an `nft` into a directory, unless there is one on PATH."""
    if shutil.which("nft") is None:
        path = directory / "nft"
        path.write_text(_PROGRAM.format(python=sys.executable, module=str(Path(__file__))))
        path.chmod(0o755)


def main(arguments: list[str]) -> int:
    """Runs one command, as nft does.

    Source: libnftables(3).
    """
    library = ctypes.CDLL(LIBRARY)
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    library.nft_ctx_new.restype = pointer
    context = pointer(library.nft_ctx_new(0))
    for name in ("output", "error"):
        getattr(library, f"nft_ctx_buffer_{name}")(context)
        getattr(library, f"nft_ctx_get_{name}_buffer").restype = text
    if "--json" in arguments:
        library.nft_ctx_output_set_flags(context, _JSON)
    command = " ".join(word for word in arguments if word != "--json")
    failed = library.nft_run_cmd_from_buffer(context, command.encode())
    sys.stdout.write(library.nft_ctx_get_output_buffer(context).decode())
    sys.stderr.write(library.nft_ctx_get_error_buffer(context).decode())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
