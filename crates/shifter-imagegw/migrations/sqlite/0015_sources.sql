-- Of an import's job: of which file it is, so that its end is not told to who asks for another one.
ALTER TABLE jobs ADD COLUMN source TEXT NOT NULL DEFAULT '';
