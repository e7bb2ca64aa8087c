#!/bin/sh
# Run a command in the image's environment; without one, the quickstart.
. /mfql/environment.sh
[ $# -gt 0 ] || set -- mfql-quickstart
exec "$@"
