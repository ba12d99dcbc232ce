// Live pushes through Supabase Realtime: node realtime.js, with URL, KEY (the publishable one) and TOKEN set.
// Once, in the database: select busymate_stats.grant_api('authenticated'); select busymate_stats.publish();
import { createClient } from '@supabase/supabase-js';

const { URL, KEY, TOKEN } = process.env;
const supabase = createClient(URL, KEY, { global: { headers: { Authorization: `Bearer ${TOKEN}` } } });
await supabase.realtime.setAuth(TOKEN);

// The value of now; what comes later is pushed. Without the capability both stay empty.
for (const table of ['service_stats', 'service_status']) {
    const { data, error } = await supabase.from(table).select('snapshot').eq('id', 1);
    console.log(table, error ?? data[0]?.snapshot);
}

supabase
    .channel('service-monitors')
    .on(
        'postgres_changes',
        { event: 'UPDATE', schema: 'public', table: 'service_status', filter: 'id=eq.1' },
        ({ new: row }) => console.log('status →', row.snapshot.overall, row.snapshot.host),
    )
    .on(
        'postgres_changes',
        { event: 'UPDATE', schema: 'public', table: 'service_stats', filter: 'id=eq.1' },
        ({ new: row }) => console.log('stats →', row.snapshot.requests_per_sec, 'req/s'),
    )
    .subscribe();
