// SPDX-License-Identifier: Apache-2.0
// Sends to a Kafka and fetches from it by its project's own library, from several threads: KafkaClient PORT THREADS ROUNDS NAME [wait].

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;

public class KafkaClient {
    static final CountDownLatch GATE = new CountDownLatch(1);
    static CountDownLatch ready;
    static String name;
    static boolean waits;

    static Map<String, Object> options(String address, int thread) {
        String text = "org.apache.kafka.common.serialization.String";
        return new java.util.HashMap<>(Map.of(
            "bootstrap.servers", address, "client.id", "java-" + thread,
            "key.serializer", text + "Serializer", "value.serializer", text + "Serializer", "max.request.size", 1 << 20));
    }

    static Map<String, Object> reading(String address, int thread) {
        String text = "org.apache.kafka.common.serialization.StringDeserializer";
        return Map.of(
            "bootstrap.servers", address, "client.id", "java-" + thread, "group.id", "group-" + thread,
            "key.deserializer", text, "value.deserializer", text, "enable.auto.commit", false, "auto.offset.reset", "earliest");
    }

    static void work(String address, int thread, int rounds) throws Exception {
        List<NewTopic> topics = new ArrayList<>();
        for (int step = 0; step < rounds; step++) topics.add(new NewTopic(name + thread + "-" + step, 2, (short) 1));
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", address))) {
            admin.createTopics(topics).all().get();
        }
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(options(address, thread));
             KafkaConsumer<String, String> consumer = new KafkaConsumer<>(reading(address, thread))) {
            List<TopicPartition> parts = new ArrayList<>();
            for (NewTopic topic : topics) for (int each = 0; each < 2; each++) parts.add(new TopicPartition(topic.name(), each));
            consumer.assign(parts);
            if (waits) {
                producer.partitionsFor(topics.get(0).name());
                consumer.poll(Duration.ofMillis(100));
            }
            ready.countDown();
            GATE.await();
            for (NewTopic topic : topics) {
                consumer.assign(List.of(new TopicPartition(topic.name(), 0), new TopicPartition(topic.name(), 1)));
                round(producer, consumer, topic.name());
            }
        }
    }

    static void round(KafkaProducer<String, String> producer, KafkaConsumer<String, String> consumer, String topic) throws Exception {
        for (int size : new int[] {1, 9_000, 30_000}) {
            try {
                producer.send(new ProducerRecord<>(topic, 0, "s3cret", "s3cret".repeat(size))).get();
            } catch (ExecutionException refused) {
                if (size < 30_000) throw refused;
            }
        }
        for (int each = 0; each < 5; each++) producer.send(new ProducerRecord<>(topic, 1, null, "s3cret"));
        producer.flush();
        for (int count = 0; count < 7;) count += consumer.poll(Duration.ofMillis(500)).count();
        consumer.commitSync();
        consumer.seek(new TopicPartition(topic, 0), 12345);
        consumer.poll(Duration.ofMillis(300));
    }

    public static void main(String[] given) throws Exception {
        int threads = Integer.parseInt(given[1]), rounds = Integer.parseInt(given[2]);
        name = given[3];
        waits = given.length > 4;
        ready = new CountDownLatch(threads);
        List<Thread> workers = new ArrayList<>();
        for (int each = 0; each < threads; each++) {
            int thread = each;
            Thread worker = new Thread(() -> {
                try {
                    work("127.0.0.1:" + given[0], thread, rounds);
                } catch (Exception error) {
                    throw new RuntimeException(error);
                }
            });
            worker.setUncaughtExceptionHandler((which, error) -> { error.printStackTrace(); System.exit(1); });
            workers.add(worker);
            worker.start();
        }
        ready.await();
        if (waits) {
            System.out.println("waiting");
            System.in.read();
        }
        GATE.countDown();
        for (Thread worker : workers) worker.join();
    }
}
