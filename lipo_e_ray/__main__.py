"""``python -m lipo_e_ray`` is the command ``lipo-e-ray``."""

from lipo_e_ray.app.cli import main

if __name__ == "__main__":
    main()
