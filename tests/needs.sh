#!/usr/bin/env bash
# Install through apt what is missing, and say so. Without the rights: say the one command to type, and stop.
#   needs.sh mosquitto chromium python3-venv
set -euo pipefail

has() {
  case $1 in
    python3-venv) "${PYTHON:-python3}" -c 'import ensurepip' 2>/dev/null ;;
    mosquitto) command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] && command -v mosquitto_pub >/dev/null ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

missing=()
for need in "$@"; do
  has "$need" && continue
  missing+=("$need")
  [ "$need" = mosquitto ] && missing+=(mosquitto-clients)
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" = 0 ]; then
  as_root=()
elif sudo -n true 2>/dev/null; then
  as_root=(sudo -n)
else
  echo "Missing: ${missing[*]}. Type: sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
echo "Installing through apt: ${missing[*]}"
"${as_root[@]}" apt-get update -qq
# Debian starts a broker when mosquitto is installed; port 1883 is for the appliance, so it must not.
if [[ " ${missing[*]} " == *" mosquitto "* ]] && [ -d /run/systemd/system ]; then
  "${as_root[@]}" systemctl mask --quiet --runtime mosquitto.service || true
fi
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
if [[ " ${missing[*]} " == *" mosquitto "* ]] && [ -d /run/systemd/system ]; then
  "${as_root[@]}" systemctl unmask --quiet --runtime mosquitto.service || true
  "${as_root[@]}" systemctl disable --quiet --now mosquitto.service || true
fi
