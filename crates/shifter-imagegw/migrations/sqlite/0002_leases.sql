-- Records that several processes may replace, tags that mean what was said last, jobs with leases.

-- Counts replacements of the image with its digests, tags and grants.
ALTER TABLE images ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;

-- When the registry said what the tag means.
ALTER TABLE tags ADD COLUMN asked REAL NOT NULL DEFAULT 0;

-- Who works on the job, and until when without a sign of life; fence counts claims.
ALTER TABLE jobs ADD COLUMN fence INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN holder TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN lease_until REAL NOT NULL DEFAULT 0;
