// Java, a thread per client. The JDK keeps AF_UNIX sockets of its own and an IPv6 listener, and its compiler
// runs beside the program, so it is held to the first steps of 01 alone.
import java.io.*;
import java.net.*;

public class Server {
    public static void main(String[] arguments) throws Exception {
        int first = arguments.length > 0 && arguments[0].equals("-q") ? 1 : 0;
        String host = arguments.length > first + 1 ? arguments[first + 1] : "127.0.0.1";
        ServerSocket listener = new ServerSocket();
        listener.setReuseAddress(true);
        try {
            listener.bind(new InetSocketAddress(host, Integer.parseInt(arguments[first])), 4096);
        } catch (IOException error) {
            System.err.println("port " + arguments[first] + ": " + error.getMessage());
            System.exit(1);
        }
        System.out.println("starting up on " + host + " port " + listener.getLocalPort());
        while (true) {
            Socket client = listener.accept();
            new Thread(() -> serve(client)).start();
        }
    }

    private static void serve(Socket client) {
        byte[] buffer = new byte[8192];
        try (client) {
            client.setTcpNoDelay(true);
            for (int count; (count = client.getInputStream().read(buffer)) != -1;)
                client.getOutputStream().write(buffer, 0, count);
        } catch (IOException gone) {
            return;
        }
    }
}
