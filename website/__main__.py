"""Builds the documentation site, and looks for dead links in it.

python -m website                       into site/
python -m website --no-notebooks        does not run them: quick
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from website import REPOSITORY, build, links


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 where the build warns or a link is dead."""
    parser = argparse.ArgumentParser(
        prog="python -m website",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "site", help="default: site/")
    parser.add_argument("--no-notebooks", action="store_true", help="show them without outputs")
    args = parser.parse_args(argv)
    shutil.rmtree(args.out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        build.assemble(source, run_notebooks=not args.no_notebooks)
        if build.build(source, args.out) != 0:
            return 1
    code = links.main([str(args.out)])
    print(f"the start page: {args.out / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
