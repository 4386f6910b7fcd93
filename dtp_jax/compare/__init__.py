"""Several configs over several seeds: one table, one picture.

The names are imported when they are used, so that the command can speak before JAX is there.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "plan": ["Entry", "parse_configs"],
        "report": ["Row", "row", "write_report"],
        "runs": ["Result", "Run", "run_all"],
    },
)
