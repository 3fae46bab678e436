-- Tells whether a list that was read before is still true. Whatever changes a record, changes its revision or its state.
CREATE TABLE changes (number INTEGER NOT NULL) STRICT;
INSERT INTO changes (number) VALUES (0);
CREATE TRIGGER image_entered AFTER INSERT ON images BEGIN UPDATE changes SET number = number + 1; END;
CREATE TRIGGER image_changed AFTER UPDATE OF revision, state ON images BEGIN UPDATE changes SET number = number + 1; END;
CREATE TRIGGER image_forgotten AFTER DELETE ON images BEGIN UPDATE changes SET number = number + 1; END;
