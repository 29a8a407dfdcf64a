#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Builds static programs etcd and kube-apiserver (main.go) from packages of Debian, for KUBEBUILDER_ASSETS.
# As root on a machine with apt: build.sh FOLDER [WORK]. Nothing is installed; WORK (4 GB) can go afterwards.
# Of Debian's suites, only sid has libraries of Kubernetes that fit each other: another one with SUITE=.
set -eu

assets=$1 work=${2:-$(mktemp -d)} here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$assets" "$work/lists/partial" "$work/debs/partial" "$work/etc/apt.conf.d" "$work/etc/preferences.d"
work=$(cd "$work" && pwd) root=$work/root
mkdir -p "$root/tmp" "$root/proc" "$root/dev"
: >"$work/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
    "${MIRROR:-http://deb.debian.org/debian} ${SUITE:-sid} main" >"$work/etc/sources.list"
cat >"$work/apt.conf" <<CONF
Dir::State "$work";
Dir::State::status "$work/status";
Dir::Cache "$work";
Dir::Cache::archives "debs";
Dir::Etc "$work/etc";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Debug::NoLocking "true";
CONF
export APT_CONFIG="$work/apt.conf"
apt-get -q update
apt-get -q install -y --download-only golang-go bash coreutils \
    golang-k8s-apiserver-dev golang-k8s-api-dev golang-etcd-server-dev

# A root to compile in, not a system: the packages are unpacked, not configured.
mkdir -p "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib" "$root/usr/lib64"
for name in bin sbin lib lib64; do ln -sfn "usr/$name" "$root/$name"; done
for deb in "$work"/debs/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -C "$root" --keep-directory-symlink -xf -
done
version=$(dpkg-deb -f "$work"/debs/golang-k8s-apiserver-dev_*.deb Version | sed 's/^0\.\([0-9]*\.[0-9]*\).*/1.\1/')
source=$root/go/src/apiserver
mkdir -p "$source/openapi"
cp "$here/main.go" "$source/"
echo 'package openapi' >"$source/openapi/doc.go"

cat >"$root/build" <<'BUILD'
set -eu
export PATH=/usr/bin HOME=/ GOROOT=/usr/lib/go GOPATH=/go:/usr/share/gocode GOCACHE=/cache GO111MODULE=off CGO_ENABLED=0
version=$1
minor=${version#1.}
cd /go/src/apiserver
api=k8s.io/api machinery=k8s.io/apimachinery/pkg component=k8s.io/component-base/version
go build -trimpath -o /openapi-gen k8s.io/kube-openapi/cmd/openapi-gen
/openapi-gen --output-dir openapi --output-pkg apiserver/openapi --output-file zz.go \
    --report-filename /dev/null --go-header-file /dev/null \
    $api/core/v1 $api/discovery/v1 $api/events/v1 $api/networking/v1 $machinery/apis/meta/v1 $machinery/runtime \
    $machinery/version $machinery/api/resource $machinery/util/intstr
go build -trimpath -o /kube-apiserver -ldflags "-s -w -X $component.gitVersion=v$version \
    -X $component.gitMajor=1 -X $component.gitMinor=${minor%%.*}" apiserver
go build -trimpath -ldflags "-s -w" -o /etcd go.etcd.io/etcd/server
BUILD
# shellcheck disable=SC2016 # expanded by the inner shell
unshare --mount sh -c 'mount --bind /proc "$1/proc" && mount --rbind /dev "$1/dev" && exec chroot "$1" /usr/bin/bash /build "$2"' \
    sh "$root" "$version"
cp "$root/etcd" "$root/kube-apiserver" "$assets/"
echo "$assets: etcd, and kube-apiserver of the libraries of Kubernetes $version"
