-- A signal that was written here, and of which nobody knows whether Redis holds it, is obeyed again when it comes again.
ALTER TABLE signals_seen ADD COLUMN confirmed boolean NOT NULL DEFAULT false;

COMMENT ON COLUMN signals_seen.confirmed IS 'in force on every replica: whoever sends it again is told so';
