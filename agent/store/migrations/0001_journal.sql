-- The journal, the ledger and what the store itself remembers. Modules bring their own tables as projections.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- One row per journal of this file; the last epoch is the present one. `continued_seq`: up to where the next journal
-- continues this one (rows behind it follow again in the next); NULL for the present journal.
CREATE TABLE journals (
    epoch INTEGER PRIMARY KEY,
    journal_id BLOB NOT NULL UNIQUE,
    continued_seq INTEGER
);

CREATE TABLE journal (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    type TEXT NOT NULL,
    schema INTEGER NOT NULL,
    occurred_at INTEGER NOT NULL,
    boot_id BLOB NOT NULL,
    monotonic_us INTEGER NOT NULL,
    trace_id TEXT NOT NULL,
    actor TEXT NOT NULL,
    subject TEXT NOT NULL,
    body BLOB NOT NULL,
    prev_hash BLOB NOT NULL,
    hash BLOB NOT NULL
);

-- Journals that were left behind by a fork, whole, so that their chains still verify.
CREATE TABLE journal_past (
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    id BLOB NOT NULL,
    type TEXT NOT NULL,
    schema INTEGER NOT NULL,
    occurred_at INTEGER NOT NULL,
    boot_id BLOB NOT NULL,
    monotonic_us INTEGER NOT NULL,
    trace_id TEXT NOT NULL,
    actor TEXT NOT NULL,
    subject TEXT NOT NULL,
    body BLOB NOT NULL,
    prev_hash BLOB NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (epoch, seq)
) WITHOUT ROWID;

CREATE TRIGGER journal_is_never_updated BEFORE UPDATE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;

-- A fork moves rows into journal_past; nothing else may take one away.
CREATE TRIGGER journal_is_never_deleted BEFORE DELETE ON journal
WHEN NOT EXISTS (
    SELECT 1 FROM journal_past AS p
    WHERE p.epoch = (SELECT max(epoch) FROM journals) AND p.seq = OLD.seq AND p.hash = OLD.hash
)
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;

CREATE TRIGGER journal_past_is_never_updated BEFORE UPDATE ON journal_past
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;

CREATE TRIGGER journal_past_is_never_deleted BEFORE DELETE ON journal_past
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;

-- Double entry, derived from the journal: (epoch, seq) is the row that moved the money. state: 0 pending, 1 voided,
-- 2 posted; an entry is never edited.
CREATE TABLE ledger_entries (
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    n INTEGER NOT NULL,
    state INTEGER NOT NULL,
    account TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount_minor INTEGER NOT NULL,
    transfer_id TEXT NOT NULL,
    PRIMARY KEY (epoch, seq, n)
) WITHOUT ROWID;

-- Pending entries that were neither voided nor replaced yet: a handful.
CREATE TABLE ledger_pending (
    transfer_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    n INTEGER NOT NULL,
    account TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount_minor INTEGER NOT NULL,
    PRIMARY KEY (transfer_id, epoch, seq, n)
) WITHOUT ROWID;

-- Sums of ledger_entries: posted, and pending plus voided.
CREATE TABLE balances (
    account TEXT NOT NULL,
    currency TEXT NOT NULL,
    posted_minor INTEGER NOT NULL,
    pending_minor INTEGER NOT NULL,
    PRIMARY KEY (account, currency)
) WITHOUT ROWID;

-- Rows of device records that are not closed: what a device machine is built from.
CREATE TABLE open_records (
    record_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    device TEXT NOT NULL,
    PRIMARY KEY (record_id, epoch, seq)
) WITHOUT ROWID;

CREATE TABLE cursors (
    name TEXT PRIMARY KEY,
    seq INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE idempotency_keys (
    role TEXT NOT NULL,
    route TEXT NOT NULL,
    key TEXT NOT NULL,
    body_hash BLOB NOT NULL,
    status INTEGER NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (role, route, key)
) WITHOUT ROWID;

-- Projections this file holds. absent_*: up to where one has come whose module is not here at present; NULL: in step.
CREATE TABLE projections (
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    absent_epoch INTEGER,
    absent_seq INTEGER
) WITHOUT ROWID;

-- What was found wrong with this file and when; kept until a person has accepted it.
CREATE TABLE damages (
    found_at INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (epoch, seq, reason)
) WITHOUT ROWID;
