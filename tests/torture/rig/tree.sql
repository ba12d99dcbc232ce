-- By day and beyond, two levels deep where the present day is, and one partition with its columns in another order.
create sequence test.ids;
create table public.entries (
    id bigint not null default nextval('test.ids'),
    created_at timestamptz not null default now(),
    device_uuid uuid references public.devices on delete set null,
    host text,
    method text,
    status int,
    source text,
    owner int not null,
    slot int,
    batch int,
    note text,
    primary key (id, created_at, owner),
    unique (owner, slot, created_at),
    foreign key (owner, batch) references test.batches on delete cascade
) partition by range (created_at);
create index on public.entries (created_at);
create index on public.entries (owner);

-- The beginning of the day that was so many days ago when the schedule began.
do $$ begin
    execute format($f$ create function test.day(int) returns timestamptz language sql immutable
        as 'select test.at(%s) - interval ''1 day'' * $1' $f$, test.us(date_trunc('day', now(), 'UTC')));
end $$;
create table test.early partition of public.entries for values from (minvalue) to (test.day(3));
create table test.day3 partition of public.entries for values from (test.day(3)) to (test.day(2));
create table test.day2 partition of public.entries for values from (test.day(2)) to (test.day(1));
create table test.day1 (
    gone int, note text, host text, created_at timestamptz not null default now(), gone_too uuid, source text,
    owner int not null, slot int, id bigint not null default nextval('test.ids'), device_uuid uuid, status int,
    method text, batch int
);
alter table test.day1 drop column gone, drop column gone_too;
alter table public.entries attach partition test.day1 for values from (test.day(1)) to (test.day(0));
create table test.day0 partition of public.entries for values from (test.day(0)) to (test.day(-1))
    partition by hash (owner);
create table test.day0_even partition of test.day0 for values with (modulus 2, remainder 0);
create table test.day0_odd partition of test.day0 for values with (modulus 2, remainder 1);
create table test.later partition of public.entries for values from (test.day(-1)) to (maxvalue)
    partition by range (created_at);
create table test.tomorrow partition of test.later for values from (test.day(-1)) to (test.day(-2));
create table test.future partition of test.later for values from (test.day(-2)) to (maxvalue);
