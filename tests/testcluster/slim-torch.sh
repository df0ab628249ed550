#!/bin/sh
# Make PyPI's CUDA build of torch small enough for clusters without a GPU: 5 GB become 1.
#
#   slim-torch.sh SITE_PACKAGES
#
# torch's own libraries stay as they are. NVIDIA's, which are nearly all code for GPUs, go: those that torch opens only
# when a kernel asks for them are deleted; those that it is linked to are replaced by hollow ones, with the same name,
# symbols and versions, of which every function ends the process. Whoever has PyTorch's CPU index needs none of this.
set -eu
cd "$1"

rm -rf triton torch/include torch/test nvidia/*/include
rm -f nvidia/cudnn/lib/libcudnn_* nvidia/nvshmem/lib/*.bc nvidia/*/lib/*.a \
  nvidia/cu*/lib/libcusolver* nvidia/cu*/lib/libnvJitLink* nvidia/cu*/lib/libnvperf* nvidia/cu*/lib/libcufftw*

hollow() {
  symbols=$(nm --dynamic --defined-only "$1")
  version=$(echo "$symbols" | sed -n 's/.* A //p' | head -n 1)
  echo "$symbols" | awk '$2 ~ /^[BDRTVWi]$/ { sub(/@.*/, "", $3); print "void " $3 "(void) { __builtin_trap(); }" }' |
    sort -u > /tmp/hollow.c
  echo "$version { global: *; };" > /tmp/hollow.map
  rm "$1"
  gcc -shared -nostdlib -fPIC -fno-builtin -w "-Wl,-soname,${1##*/}" ${version:+-Wl,--version-script=/tmp/hollow.map} \
    -o "$1" /tmp/hollow.c
}

for library in nvidia/cu*/lib/libcublas*.so.* nvidia/cu*/lib/libcufft.so.* nvidia/cu*/lib/libcusparse.so.* \
  nvidia/cu*/lib/libnvrtc.so.* nvidia/cusparselt/lib/libcusparseLt.so.* nvidia/nccl/lib/libnccl.so.* \
  nvidia/nvshmem/lib/libnvshmem_host.so.*; do
  if [ -e "$library" ]; then hollow "$library"; fi # a CPU build has none of them
done
rm -f /tmp/hollow.c /tmp/hollow.map
