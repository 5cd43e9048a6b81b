// SPDX-License-Identifier: Apache-2.0
package kernelspan.requests;

import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.Unpooled;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpServerCodec;
import io.netty.handler.codec.http.HttpVersion;

/** Netty with one loop, which works on all requests by turns, a step of each. Argument: a port. */
public final class Nettys extends SimpleChannelInboundHandler<FullHttpRequest> {
  @Override
  protected void channelRead0(ChannelHandlerContext context, FullHttpRequest request) {
    step(context, request.uri().split("\\?")[0].split("/"), request.content().readableBytes(), 0);
  }

  private static void step(ChannelHandlerContext context, String[] steps, int size, int done) {
    if (done < Integer.parseInt(steps[3])) {
      Requests.touch(steps[2], done);
      context.channel().eventLoop().execute(() -> step(context, steps, size, done + 1));
      return;
    }
    byte[] text = (steps[2] + " " + size).getBytes(java.nio.charset.StandardCharsets.US_ASCII);
    HttpResponseStatus status = HttpResponseStatus.valueOf(Integer.parseInt(steps[2]) % 10 == 7 ? 500 : 200);
    DefaultFullHttpResponse answer =
        new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, status, Unpooled.wrappedBuffer(text));
    answer.headers().set("content-length", text.length);
    context.writeAndFlush(answer);
  }

  public static void main(String[] arguments) throws Exception {
    EventLoopGroup group = new NioEventLoopGroup(1);
    ChannelInitializer<SocketChannel> each = new ChannelInitializer<SocketChannel>() {
      @Override
      protected void initChannel(SocketChannel channel) {
        channel.pipeline().addLast(new HttpServerCodec(), new HttpObjectAggregator(1 << 20), new Nettys());
      }
    };
    ServerBootstrap server = new ServerBootstrap().group(group).channel(NioServerSocketChannel.class).childHandler(each);
    server.bind("127.0.0.1", Integer.parseInt(arguments[0])).sync().channel().closeFuture().sync();
  }
}
