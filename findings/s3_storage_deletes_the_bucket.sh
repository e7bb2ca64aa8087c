#!/usr/bin/env bash
# snakemake-storage-plugin-s3 0.3.6: a bucket whose last object Snakemake removes is deleted with it, and made anew without
# its settings.
#
# Guess: a launch that makes an output again replaces an object in the bucket; the bucket, which somebody set up, stays.
#
# Seen: an output that is alone in its bucket is removed before its job runs again, then the bucket, since it is empty. Storing
# the output creates another bucket of that name, without its policy or rules. Where the bucket keeps versions, it cannot be
# deleted, and the launch ends with an error. A bucket that holds another object is left as it is.
set -euo pipefail

folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2> /dev/null || true; rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
# Flask and its extension are what moto's server needs for S3 alone.
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check snakemake==9.27.1 snakemake-storage-plugin-s3==0.3.6 \
    'moto[s3]==5.2.5' flask==3.1.3 flask-cors==6.0.5
cd "$folder"
venv/bin/python -c "from moto.server import main; main()" -p 0 > served 2>&1 &
server=$!
for _ in $(seq 60); do ! grep -q 'Running on' served || break; sleep 1; done
export SNAKEMAKE_STORAGE_S3_ENDPOINT_URL SNAKEMAKE_STORAGE_S3_ACCESS_KEY=access SNAKEMAKE_STORAGE_S3_SECRET_KEY=secret
SNAKEMAKE_STORAGE_S3_ENDPOINT_URL=$(grep -o 'http://[0-9.:]*' served | head -n 1)
cat > Snakefile <<'END'
rule job:
    output: "made.txt"
    shell: "echo made > {output}"
END
cat > bucket.py <<'END'
import os, sys
import boto3

client = boto3.client("s3", endpoint_url=os.environ["SNAKEMAKE_STORAGE_S3_ENDPOINT_URL"], region_name="us-east-1",
                      aws_access_key_id="access", aws_secret_access_key="secret")
action, bucket = sys.argv[1:]
if action == "make":
    client.create_bucket(Bucket=bucket)
    rule = {"AllowedMethods": ["GET"], "AllowedOrigins": ["https://lab.example"]}
    client.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
elif action == "version":
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
elif action == "fill":
    client.put_object(Bucket=bucket, Key="other.txt", Body=b"other")
else:
    try:
        print(client.get_bucket_cors(Bucket=bucket)["CORSRules"][0]["AllowedOrigins"][0])
    except client.exceptions.ClientError as error:
        print(error.response["Error"]["Code"])
END
launch() {
    local bucket=$1
    shift
    venv/bin/snakemake --cores 1 --default-storage-provider s3 --default-storage-prefix "s3://$bucket" "$@" > printed 2>&1 < /dev/null
}
# The bucket's setting after the job ran again, or what is said in its place.
set_after() {
    venv/bin/python bucket.py make "$1"
    [ "$2" = plain ] || venv/bin/python bucket.py "$2" "$1"
    launch "$1" || { cat printed >&2; exit 1; }
    if launch "$1" --forceall; then venv/bin/python bucket.py show "$1"; else grep -o 'BucketNotEmpty' printed || cat printed; fi
}

venv/bin/snakemake --version
alone=$(set_after alone plain)
versions=$(set_after versions version)
filled=$(set_after filled fill)
echo "the bucket's setting after its only object was made again: $alone | where it keeps versions: $versions | with another object: $filled"
[ "$alone" = NoSuchCORSConfiguration ] && [ "$versions" = BucketNotEmpty ] && [ "$filled" = https://lab.example ]
