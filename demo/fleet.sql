-- A fleet to look at: the extension, its tables, and what the sample entries are made from.

create extension busymate_stats;
select busymate_stats.create_fleet_tables();

create schema demo;

create function demo.device(n int) returns uuid
    language sql immutable
    as $$ select md5('BMH' || n)::uuid $$;

-- Entry number n, out of a sequence without end. Any 9841 in a row hold the same figures: n, multiplied by a number that
-- shares no factor with 9841, visits each of 0 to 9840 once, and ranges of the product stand for the shares. Another
-- multiplier for each column keeps the columns independent of each other.
create function demo.entry(n bigint, out device_uuid uuid, out host text, out method text, out status int, out source text)
    language sql immutable
    as $$
    select demo.device((array[3, 1, 7, 11, 2, 5, 8, 4, 9, 6, 12, 10])
                       [1 + width_bucket(device, array[5120, 6324, 7195, 7835, 8347, 8748, 9081, 9341, 9542, 9692, 9791])]),
           case when host < 6846
                then (array['api.stripe.com', 'cdn.example.net', 'api.example.com', 'push.example.org', 'login.example.com',
                            'static.example.net', 'events.example.org', 'maps.example.com', 'video.example.net', 'dns.example.org'])
                     [1 + width_bucket(host, array[1840, 3044, 4010, 4731, 5271, 5704, 6075, 6373, 6629])]
                else format('site-%s.example.net', 1 + floor(240 * ((host - 6846) / 2995::float8) ^ 2))
           end,
           case when status >= 7831 then 'CONNECT' when status % 4 = 0 then 'POST' else 'GET' end,
           (array[200, 204, 201, 304, 301, 404, 401, 429, 400, 502, 500, null])
           [1 + width_bucket(status, array[6400, 6900, 7321, 7360, 7409, 7600, 7700, 7780, 7819, 7825, 7831])],
           (array['vpn', 'pac', 'cdp'])[1 + width_bucket(source, array[6200, 8100])]
      from (select (n * 8062 % 9841)::int, (n * 5607 % 9841)::int, (n * 6083 % 9841)::int, (n * 7429 % 9841)::int)
           share(device, host, status, source)
$$;

-- Nine by VPN, three by proxy configuration; four of them online, one never seen.
insert into public.devices (device_uuid, name, connection_type, last_seen_at)
select demo.device(n), 'BMH' || n, case when n % 4 = 0 then 'pac' else 'vpn' end,
       case when n in (1, 3, 7, 11) then now() when n <> 10 then now() - interval '17 minutes' * n * n end
  from generate_series(1, 12) n;

-- 184,203 entries over 30 days: 512 in the last hour, 9,841 in the last 24. None lies near the edge of a window, so the
-- figures stay as they are for the first five minutes.
create view demo.sample as
    select now() - interval '1 second' * case when n < 512 then 2 + n * 3298.0 / 511
                                              when n < 9841 then 3900 + (n - 512) * 81900.0 / 9328
                                              else 87000 + (n - 9841) * 2504400.0 / 174361 end as created_at,
           entry.*
      from generate_series(184202, 0, -1) n, demo.entry(n) entry;

-- The last entry that the trickle has made: entry n happens at n * 86400 / 9841 seconds, so 9,841 times a day.
create table demo.trickle (n bigint not null);
insert into demo.trickle values (floor(extract(epoch from now()) * 9841 / 86400));

-- Makes the entries that have happened since the last call, and `extra` ones; the devices that are online beat.
create function demo.tick(extra int default 0) returns void
    language plpgsql
    as $$
declare
    done bigint;
    due bigint := floor(extract(epoch from clock_timestamp()) * 9841 / 86400);
begin
    select n into done from demo.trickle for update;
    insert into public.entries (created_at, device_uuid, host, method, status, source)
    select to_timestamp(n * 86400 / 9841.0), entry.*
      from generate_series(greatest(done + 1, due - 30 * 9841), due) n, demo.entry(n) entry
    union all
    select clock_timestamp(), entry.* from generate_series(due + 1, due + extra) n, demo.entry(n) entry;
    update demo.trickle set n = greatest(done, due);
    update public.devices set last_seen_at = clock_timestamp()
     where device_uuid in (demo.device(1), demo.device(3), demo.device(7), demo.device(11));
end
$$;

select busymate_stats.grant_api('authenticated');
select busymate_stats.publish('supabase_realtime', create_missing => true);
select busymate_stats.assign_role('11111111-1111-4111-8111-111111111111', 'viewer');
select busymate_stats.assign_role('99999999-9999-4999-8999-999999999999', 'admin');
