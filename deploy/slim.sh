#!/bin/sh
# Takes out of an environment what a server never reads. Used by the build stages. Usage: slim.sh ENVIRONMENT
set -eu
cd "$1"/lib/python3*/site-packages

rm -rf onnx/backend/test onnx/test onnx/bin onnxruntime/tools onnxruntime/transformers onnxruntime/quantization \
       onnxruntime/datasets numpy/_core/tests numpy/_core/include numpy/f2py ml_dtypes/include
find . -type d -name tests -prune -exec rm -rf {} +
# Headers and static libraries are for compilers.
find . -type f \( -name '*.a' -o -name '*.h' -o -name '*.hpp' -o -name '*.cu' -o -name '*.pyi' -o -name '*.proto' \) -delete
# The AWS client describes every service of AWS; a model repository needs storage and its logins.
if [ -d botocore/data ]; then
    for service in botocore/data/*/; do
        case $(basename "$service") in
            s3 | sts | sso | sso-oidc) ;;
            *) rm -rf "$service" ;;
        esac
    done
fi
# One folder for the dynamic loader.
mkdir -p "$1/lib/cuda"
find . -path '*/nvidia/*' -name '*.so*' -exec ln -s "$PWD/{}" "$1/lib/cuda/" \;
