-- Amounts are whole numbers of 1e-8 US dollars, times are seconds since 1970. A statement ends at an empty line.
CREATE TABLE person (
  name TEXT PRIMARY KEY,
  key_hash TEXT NOT NULL UNIQUE,
  models TEXT NOT NULL,
  day_limit BIGINT NOT NULL,
  month_limit BIGINT NOT NULL,
  until_at BIGINT NOT NULL,
  revoked_at BIGINT NOT NULL,
  created_at BIGINT NOT NULL
)

CREATE TABLE spending (
  name TEXT NOT NULL REFERENCES person (name),
  period TEXT NOT NULL,
  spent BIGINT NOT NULL,
  reserved BIGINT NOT NULL,
  requests BIGINT NOT NULL,
  PRIMARY KEY (name, period)
)

CREATE TABLE request (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL REFERENCES person (name),
  model TEXT NOT NULL,
  at BIGINT NOT NULL,
  state TEXT NOT NULL,
  reserved BIGINT NOT NULL,
  cost BIGINT NOT NULL,
  expires BIGINT NOT NULL
)

CREATE INDEX request_open ON request (state, expires)

CREATE TABLE audit (
  id TEXT PRIMARY KEY,
  number BIGINT NOT NULL,
  at BIGINT NOT NULL,
  who TEXT NOT NULL,
  what TEXT NOT NULL,
  whom TEXT NOT NULL,
  detail TEXT NOT NULL
)
