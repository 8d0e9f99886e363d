-- Tables of the cash module, fed from the journal by projections.py. Keys are UUIDv7 texts, so new rows land on the
-- last page. WITHOUT ROWID keeps a row and its key in one tree, and no index names a column that a stacked note
-- changes: such a commit dirties one page each of payments, notes and unit_contents.

CREATE TABLE IF NOT EXISTS payments (
    id                TEXT PRIMARY KEY,
    open              INTEGER NOT NULL,           -- 1 until the state is final
    state             TEXT NOT NULL,
    currency          TEXT NOT NULL,
    amount_minor      INTEGER NOT NULL,
    collected_minor   INTEGER NOT NULL DEFAULT 0,
    claimed_minor     INTEGER NOT NULL DEFAULT 0,
    in_doubt_minor    INTEGER NOT NULL DEFAULT 0,
    paid_minor        INTEGER NOT NULL DEFAULT 0, -- what went to sales; set when completed
    reference         TEXT NOT NULL,
    timeout_s         INTEGER NOT NULL,
    deadline_us       INTEGER NOT NULL,           -- wall clock, µs UTC
    extensions        INTEGER NOT NULL DEFAULT 0,
    allowed_minor     TEXT NOT NULL,              -- JSON array
    max_overpay_minor INTEGER,
    allow_partial     INTEGER NOT NULL,
    reason            TEXT NOT NULL DEFAULT '',
    created_us        INTEGER NOT NULL,
    ended_us          INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS payments_open ON payments (id) WHERE open = 1;

CREATE TABLE IF NOT EXISTS notes (
    id           TEXT PRIMARY KEY,
    device       TEXT NOT NULL,
    state        TEXT NOT NULL, -- escrowed, stack_requested, return_requested, stacked, returned, in_doubt, explained
    currency     TEXT,          -- with value_minor: what the device last said; NULL when its table has no entry
    value_minor  INTEGER,
    note_code    INTEGER,
    payment_id   TEXT,
    reason       TEXT NOT NULL DEFAULT '',
    first_us     INTEGER NOT NULL,
    last_us      INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS notes_of_payment ON notes (payment_id) WHERE payment_id IS NOT NULL;

CREATE TABLE IF NOT EXISTS claims (
    id           TEXT PRIMARY KEY,
    code         TEXT NOT NULL,
    payment_id   TEXT,
    currency     TEXT NOT NULL,
    amount_minor INTEGER NOT NULL,
    reason       TEXT NOT NULL,
    issued_us    INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS claims_by_code ON claims (code);
CREATE INDEX IF NOT EXISTS claims_of_payment ON claims (payment_id);

CREATE TABLE IF NOT EXISTS doubts (
    id               TEXT PRIMARY KEY,
    device           TEXT NOT NULL,
    open             INTEGER NOT NULL,
    payment_id       TEXT,
    currency         TEXT,          -- with amount_minor: what is in doubt; NULL when even that is unknown
    amount_minor     INTEGER,
    reason           TEXT NOT NULL,
    evidence         TEXT NOT NULL, -- JSON array of frames, oldest first
    opened_us        INTEGER NOT NULL,
    outcome          TEXT,          -- stacked, returned, explained
    found_currency   TEXT,
    found_minor      INTEGER,
    explained_by_seq INTEGER,
    resolution       TEXT,          -- the person's reason
    resolved_by      TEXT,
    resolved_us      INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS doubts_open ON doubts (id) WHERE open = 1;

CREATE TABLE IF NOT EXISTS unit_contents (
    unit        TEXT NOT NULL, -- ledger account: stacker:<device>
    currency    TEXT NOT NULL,
    value_minor INTEGER NOT NULL,
    count       INTEGER NOT NULL,
    PRIMARY KEY (unit, currency, value_minor)
) WITHOUT ROWID;
