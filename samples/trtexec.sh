#!/bin/sh
# Times the plan of a bundle by NVIDIA's own tool, without any of ours: trtexec.sh BUNDLE
#
# Where the bundle has no TensorRT plan yet (irstd-build BUNDLE makes one), trtexec builds one from
# the ONNX graph that is named for the precision: strongly typed since TensorRT 10, by flags in 8.6:
#   trtexec --onnx=BUNDLE/model.int8.onnx --stronglyTyped --saveEngine=model.plan
#   trtexec --onnx=BUNDLE/model.int8.onnx --int8 --saveEngine=model.plan           (8.6)
#   trtexec --onnx=BUNDLE/model.fp16.onnx --fp16 --saveEngine=model.plan           (8.6)
set -eu
bundle=${1:?usage: trtexec.sh BUNDLE}
for plan in "$bundle"/*-trt*.plan; do
    [ -e "$plan" ] || { echo "$bundle has no TensorRT plan; run irstd-build $bundle on this device" >&2; exit 1; }
    "${TRTEXEC:-trtexec}" --loadEngine="$plan" --useCudaGraph --noDataTransfers --iterations=200
done
