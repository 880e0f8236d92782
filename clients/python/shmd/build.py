"""Compiles the C library that shmd.worker loads: python3 -m shmd.build [-o FILE].

Without -o it is put where shmd.worker looks: beside this file. CC names the compiler.
"""

import argparse
import os
import pathlib
import subprocess
import sys

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "c"


def build(out):
    """Compile the library into the file out. RuntimeError: there is no compiler, or it failed."""
    part = "%s.%d" % (out, os.getpid())
    cc = os.environ.get("CC", "cc")
    command = [cc, "-std=gnu11", "-O2", "-fPIC", "-shared", "-I", str(SOURCE), "-o", part, str(SOURCE / "shmd.c"), "-lpthread"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        os.replace(part, out)  # at once: a worker that starts meanwhile loads the old one or the new one
    except OSError as e:
        raise RuntimeError("%s; install a C compiler (Debian: apt-get install gcc), or name yours in CC" % e) from e
    except subprocess.CalledProcessError as e:
        raise RuntimeError("%s:\n%s" % (" ".join(command), e.stderr)) from e


def main():
    arguments = argparse.ArgumentParser(prog="python3 -m shmd.build", description=__doc__)
    arguments.add_argument("-o", metavar="FILE", default=str(pathlib.Path(__file__).resolve().parent / "libshmd.so"))
    out = arguments.parse_args().o
    try:
        build(out)
    except RuntimeError as e:
        sys.exit(str(e))
    print(out)


if __name__ == "__main__":
    main()
