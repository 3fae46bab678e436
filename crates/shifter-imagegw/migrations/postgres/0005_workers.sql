-- Workers in several processes: one of them at a time makes an image, and credentials reach them sealed.

-- The digest that this job alone resolves, makes and grants at the moment.
ALTER TABLE jobs ADD COLUMN flight TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX jobs_flight ON jobs (system, flight) WHERE flight <> '';

-- The caller's registry credentials for workers apart: EXPIRY:HEX, never in the clear, gone with the job's end.
ALTER TABLE jobs ADD COLUMN sealed TEXT NOT NULL DEFAULT '';
