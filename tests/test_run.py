import subprocess
import sys


def test_it_is_the_command_run():
    done = subprocess.run(
        [sys.executable, "-m", "lipo_e_ray.run", "--profile", "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "lipo-e-ray: --profile: expected one of one-gpu, cluster, demo, got 'x'\n"
