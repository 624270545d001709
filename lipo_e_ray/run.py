"""``python -m lipo_e_ray.run`` is ``lipo-e-ray run``."""

from __future__ import annotations

import sys

from lipo_e_ray.app.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
