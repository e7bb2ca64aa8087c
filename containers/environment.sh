# The environment of every command in the image; the recipes source it before one starts.
export PATH=/mfql/venv/bin:/mfql/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# A checkout in the working directory runs with its own code; elsewhere the image's copy of the repository is used.
if [ -f mfql/cli.py ]; then PYTHONPATH=$PWD; else PYTHONPATH=/mfql/repository; fi
export PYTHONPATH
export PYTHONNOUSERSITE=1 MUJOCO_GL=egl
# Neither the home folder nor the image need be writable. A cluster's profile names folders of its own.
: "${XDG_CACHE_HOME:=/tmp/mfql-cache-$(id -u)}"
: "${MPLCONFIGDIR:=$XDG_CACHE_HOME/matplotlib}" "${TORCHINDUCTOR_CACHE_DIR:=$XDG_CACHE_HOME/torchinductor}"
export XDG_CACHE_HOME MPLCONFIGDIR TORCHINDUCTOR_CACHE_DIR
