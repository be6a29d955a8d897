-- Version 4. Runs of the task that did not lead.
ALTER TABLE tasks ADD COLUMN followers integer NOT NULL DEFAULT 0;
