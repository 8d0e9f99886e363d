-- People and sessions of the local API. Not projections: the journal names users by id only, so no rebuild makes them.

CREATE TABLE users (
    id TEXT PRIMARY KEY,                -- UUIDv7
    name TEXT NOT NULL,                 -- as it is shown
    name_key TEXT NOT NULL UNIQUE,      -- as it is compared: NFKC, casefold
    role TEXT NOT NULL CHECK (role IN ('technician', 'collector', 'admin')),
    secret_hash TEXT NOT NULL,          -- argon2id, PHC string
    created_us INTEGER NOT NULL,
    changed_us INTEGER NOT NULL         -- of the secret
) WITHOUT ROWID;

-- Failed logins by name, whether or not such a user exists. `attempt_key` is SHA-256 of the name: what people type by
-- mistake into that field is often their PIN.
CREATE TABLE login_attempts (
    attempt_key BLOB PRIMARY KEY,
    failures INTEGER NOT NULL,
    locked_until_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL
) WITHOUT ROWID;

-- One row per login. Tokens are stored as SHA-256 only. `previous_hash`: the refresh token before the present one.
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,                -- UUIDv7
    user_id TEXT REFERENCES users (id), -- NULL: a UI
    role TEXT NOT NULL,
    access_hash BLOB NOT NULL UNIQUE,
    refresh_hash BLOB NOT NULL UNIQUE,
    previous_hash BLOB,
    created_us INTEGER NOT NULL,
    access_until_us INTEGER NOT NULL,
    refresh_until_us INTEGER NOT NULL
) WITHOUT ROWID;
