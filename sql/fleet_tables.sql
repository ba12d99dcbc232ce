create table public.devices (
    device_uuid uuid primary key default gen_random_uuid(),
    name text not null,
    connection_type text,
    last_seen_at timestamptz
);
comment on table public.devices is 'The devices of the fleet.';
comment on column public.devices.device_uuid is 'Identifies the device; entries refer to it.';
comment on column public.devices.name is 'The name that top_devices shows.';
comment on column public.devices.connection_type is 'How the device is connected, as counted in connection_type_mix.';
comment on column public.devices.last_seen_at is 'The last sign of life; a recent one makes the device online.';

create table public.entries (
    id bigint generated always as identity,
    created_at timestamptz not null default now(),
    device_uuid uuid,
    host text,
    method text,
    status int,
    source text,
    primary key (id)
);
create index entries_created_at_idx on public.entries (created_at);
comment on table public.entries is 'The requests that the fleet''s devices made.';
comment on column public.entries.created_at is 'When the request happened; every window is cut by it.';
comment on column public.entries.device_uuid is 'The device that made it. No foreign key: an entry may outlive or precede its device.';
comment on column public.entries.host is 'The host that was asked, as counted in top_domains.';
comment on column public.entries.method is 'The HTTP method; not counted.';
comment on column public.entries.status is 'The HTTP status, as counted in status_class_mix.';
comment on column public.entries.source is 'Where the entry came from, as counted in source_mix.';

alter table public.devices enable row level security;
alter table public.entries enable row level security;
