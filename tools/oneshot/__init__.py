"""Parts of tools/bench_oneshot.py: what other tools make of the same files and calibration inputs."""
