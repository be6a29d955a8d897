-- Version 2. The attempt whose delivery was acknowledged before its end; 0: none.
ALTER TABLE tasks ADD COLUMN custody_attempt integer NOT NULL DEFAULT 0;
