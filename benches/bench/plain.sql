-- The statistics as people write them: one SQL function over the tables.
create function public.plain_get_stats() returns jsonb
    language sql stable parallel safe security definer set search_path = public
    as $$
select jsonb_build_object(
    'total_devices', (select count(*) from devices),
    'online_devices', (select count(*) from devices where last_seen_at > now() - interval '5 minutes'),
    'total_entries', (select count(*) from entries),
    'entries_1h', (select count(*) from entries where created_at > now() - interval '1 hour'),
    'entries_24h', (select count(*) from entries where created_at > now() - interval '24 hours'),
    'requests_per_sec', (select round(count(*) / 3600.0, 2) from entries where created_at > now() - interval '1 hour'),
    'status_class_mix', (select coalesce(jsonb_object_agg(class, n), '{}') from (
        select (status / 100)::text as class, count(*) as n from entries
         where created_at > now() - interval '24 hours' and status between 100 and 599 group by 1) mix),
    'source_mix', (select coalesce(jsonb_object_agg(source, n), '{}') from (
        select coalesce(source, 'unknown') as source, count(*) as n from entries
         where created_at > now() - interval '24 hours' group by 1) mix),
    'connection_type_mix', (select coalesce(jsonb_object_agg(connection_type, n), '{}') from (
        select coalesce(connection_type, 'unknown') as connection_type, count(*) as n from devices group by 1) mix),
    'top_domains', (select coalesce(jsonb_agg(to_jsonb(top)), '[]') from (
        select host, count(*) as count from entries
         where created_at > now() - interval '24 hours' and host is not null
         group by host order by 2 desc, 1 limit 10) top),
    'top_devices', (select coalesce(jsonb_agg(to_jsonb(top)), '[]') from (
        select e.device_uuid, d.name, count(*) as count from entries e left join devices d using (device_uuid)
         where e.created_at > now() - interval '24 hours' and e.device_uuid is not null
         group by 1, 2 order by 3 desc, 1 limit 10) top),
    'generated_at', now())
$$;
grant execute on function public.plain_get_stats() to authenticated;
