#!/bin/sh
# Makes the secrets that docker-compose.yml mounts, in the folder named as argument; what is there already stays as it is.
#   sudo config/make-secrets.sh /etc/kiosk-central/secrets
# The folder is closed to everybody but its owner. The files in it are readable, because compose mounts them as they are
# and each container reads them as its own, unprivileged user.
set -eu

directory=${1:?the folder for the secrets}
umask 077
mkdir -p "$directory"
chmod 0700 "$directory"
cd "$directory"

keep() { # keep NAME VALUE
	[ -e "$1" ] || { printf '%s' "$2" >".$1.new" && chmod 0444 ".$1.new" && mv ".$1.new" "$1" && echo "made $1"; }
}
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

keep postgres_password "$(random 24)"
keep database_dsn "postgresql://central:$(cat postgres_password)@postgres:5432/central"
keep redis_password "$(random 24)"
keep redis_conf "requirepass $(cat redis_password)"
keep redis_url "redis://:$(cat redis_password)@redis:6379/0"
keep minio_root_user "$(random 10)"
keep minio_root_password "$(random 24)"
keep s3_access_key "$(random 10 | tr '[:lower:]' '[:upper:]')"
keep s3_secret_key "$(random 20)"
keep auth_secret "$(random 32)"
keep grafana_admin_password "$(random 16)"
keep log_push_token "$(random 32)"
