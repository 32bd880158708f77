#!/usr/bin/env bash
# Install through apt what is missing, and say so. Without the rights: say the one command to type, and stop.
#   needs.sh mosquitto chromium python3-venv
set -euo pipefail

has() {
  case $1 in
    python3-venv) "${PYTHON:-python3}" -c 'import ensurepip' 2>/dev/null ;;
    mosquitto) { command -v mosquitto || [ -x /usr/sbin/mosquitto ]; } >/dev/null && command -v mosquitto_pub >/dev/null ;;
    mkfs.ext4) [ -x /sbin/mkfs.ext4 ] ;;
    java-client) command -v javac >/dev/null && [ -e /usr/share/java/httpclient5.jar ] &&
      [ -e /usr/share/java/geronimo-annotation-1.3-spec.jar ] ;;
    mono-client) command -v mcs >/dev/null && [ -e /usr/lib/cli/Newtonsoft.Json-5.0/Newtonsoft.Json.dll ] ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

packages=()
for need in "$@"; do
  has "$need" && continue
  case $need in
    mosquitto) packages+=(mosquitto mosquitto-clients) ;;
    systemd-analyze) packages+=(systemd) ;;
    softhsm2-util) packages+=(softhsm2) ;;
    systemd-nspawn) packages+=(systemd-container) ;;
    mkfs.ext4) packages+=(e2fsprogs) ;;
    cc) packages+=(gcc libc6-dev) ;;
    java-client)
      packages+=(default-jdk-headless libhttpclient5-java libgeronimo-annotation-1.3-spec-java) ;;
    mono-client)
      packages+=(mono-mcs mono-runtime libnewtonsoft-json5.0-cil libmono-system-net-http4.0-cil)
      packages+=(libmono-system-componentmodel-dataannotations4.0-cil libmono-system-web4.0-cil)
      packages+=(libmono-system-runtime-serialization4.0-cil) ;;
    *) packages+=("$need") ;;
  esac
done
[ ${#packages[@]} -eq 0 ] && exit 0

if [ "$(id -u)" = 0 ]; then
  as_root=()
elif sudo -n true 2>/dev/null; then
  as_root=(sudo -n)
else
  echo "Missing: ${packages[*]}. Type: sudo apt-get install -y --no-install-recommends ${packages[*]}" >&2
  exit 1
fi
echo "Installing through apt: ${packages[*]}"

# Debian starts a broker on port 1883 when mosquitto is installed. That port is for the appliance: forbid starting
# services for as long as the installation lasts, and at boot.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
  "${as_root[@]}" chmod +x $policy
  trap '"${as_root[@]}" rm -f $policy' EXIT
fi
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
if [[ " ${packages[*]} " == *" mosquitto "* ]] && [ -d /run/systemd/system ]; then
  "${as_root[@]}" systemctl disable --quiet mosquitto.service
fi
