-- A hypertable whose chunks are as long as a day. It has no foreign keys, for which a new chunk would lock their tables.
create extension timescaledb;
create sequence test.ids;
create table public.entries (
    id bigint not null default nextval('test.ids'),
    created_at timestamptz not null default now(),
    device_uuid uuid,
    host text,
    method text,
    status int,
    source text,
    owner int not null,
    slot int,
    batch int,
    note text,
    primary key (id, created_at),
    unique (owner, slot, created_at)
);
select create_hypertable('public.entries', 'created_at', chunk_time_interval => interval '1 day');
create index on public.entries (owner);

-- The beginning of the day that was so many days ago when the schedule began.
do $$ begin
    execute format($f$ create function test.day(int) returns timestamptz language sql immutable
        as 'select test.at(%s) - interval ''1 day'' * $1' $f$, test.us(date_trunc('day', now(), 'UTC')));
end $$;

-- Who makes a chunk keeps others from making one until he commits: these are there.
insert into public.entries (created_at, owner)
    select test.day(0) + n * interval '1 day', 0 from generate_series(-8, 3) n;
delete from public.entries;

-- Runs a statement on the chunk that has a moment, if there is one.
create function test.on_chunk(moment timestamptz, statement text) returns void language plpgsql as $$
declare
    chunk regclass;
begin
    select format('%I.%I', chunk_schema, chunk_name)::regclass into chunk
      from timescaledb_information.chunks
     where hypertable_name = 'entries' and moment >= range_start and moment < range_end;
    if chunk is not null then
        execute format(statement, chunk);
    end if;
end
$$;
