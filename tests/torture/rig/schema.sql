create extension busymate_stats;
create schema test;
create function test.at(bigint) returns timestamptz language sql immutable
    as $$ select timestamptz '2000-01-01 00:00:00+00' + interval '1 microsecond' * $1 $$;
create function test.us(timestamptz) returns bigint language sql immutable
    as $$ select case when isfinite($1) then (extract(epoch from $1) * 1000000)::bigint - 946684800000000 end $$;

-- The library's hooks: the install script knows nothing of them.
create function test.step(step text, stride bigint) returns text language c strict
    as '$libdir/busymate_stats', 'torture_step_wrapper';
create function test.ways() returns jsonb language c
    as '$libdir/busymate_stats', 'torture_ways_wrapper';

create table public.devices (
    device_uuid uuid primary key,
    name text not null,
    connection_type text,
    last_seen_at timestamptz
);
create table test.batches (owner int, n int, primary key (owner, n));
