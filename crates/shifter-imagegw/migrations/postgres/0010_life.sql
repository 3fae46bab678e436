-- Images that leave and may come back, what tags meant, and who looked what up.

-- EXPIRING: nobody finds it any more; EXPIRED: its files are gone, too.
ALTER TABLE images ADD COLUMN state TEXT NOT NULL DEFAULT 'READY' CHECK (state IN ('READY', 'EXPIRING', 'EXPIRED'));

-- Kept by an administrator.
ALTER TABLE images ADD COLUMN pinned BIGINT NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1));

-- Which image a tag meant, and since when; also of images that are forgotten.
CREATE TABLE history (
    system  TEXT NOT NULL,
    itype   TEXT NOT NULL,
    tag     TEXT NOT NULL,
    id      TEXT NOT NULL,
    since   DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (system, itype, tag, since, id)
);

-- Lookups that found their image.
CREATE TABLE uses (
    number    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    system    TEXT NOT NULL,
    itype     TEXT NOT NULL,
    tag       TEXT NOT NULL,
    id        TEXT NOT NULL,
    uid       BIGINT NOT NULL,
    username  TEXT NOT NULL,
    time      DOUBLE PRECISION NOT NULL
);
CREATE INDEX uses_by_system ON uses (system, number);
